"""Small trees with the exact layout of the releases that can be imported by name; generated, a few tiny images each."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.trainables.dicom_files import write_dicom

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
VINDR_CXR = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
)  # fmt: skip
_PADCHEST_FINDINGS = ("['cardiomegaly', 'pleural effusion', 'sternotomy']", "['normal']", "") * 3
_GENERATOR = np.random.default_rng(7)


def picture(file: Path, shape: tuple[int, ...] = (6, 8, 3)) -> None:
    """Noise, so that no two images are alike."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_GENERATOR.integers(0, 256, shape, dtype=np.uint8)).save(file)


def binary_mask(file: Path, rows: slice, shape: tuple[int, int] = (6, 8)) -> None:
    """255 in some rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(shape, dtype=np.uint8)
    values[rows] = 255
    Image.fromarray(values).save(file)


def dicom(file: Path, shape: tuple[int, int] = (6, 8)) -> None:
    """12-bit noise."""
    write_dicom(file, _GENERATOR.integers(0, 4096, shape, dtype=np.uint16), BitsStored=12, HighBit=11)


def write(file: Path, *lines: str) -> None:
    """A text file; packed if its name says so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data = ("\n".join(lines) + "\n").encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)


def chexpert(root: Path) -> None:
    head = ",".join(("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT))
    flags = {1: ",,1.0,,,-1.0,0.0,,1.0,,,,,", 2: "1.0,,0.0,,,,,,,,0.0,,,1.0"}
    train, valid = [head], [head]
    for patient in range(1, 9):
        for view, place in (("frontal", "Frontal,AP"), ("lateral", "Lateral,")):
            path = f"train/patient{patient:05d}/study1/view1_{view}.jpg"
            picture(root / path, (6, 8))
            age, sex = (0, "Unknown") if patient == 8 else (40 + patient, "Female" if patient % 2 else "Male")
            train.append(f"CheXpert-v1.0-small/{path},{sex},{age},{place},{flags[1 + patient % 2]}")
    path = "valid/patient64541/study1/view1_frontal.jpg"
    picture(root / path, (6, 8))
    valid.append(f"CheXpert-v1.0-small/{path},Male,73,Frontal,AP,{','.join(['0.0', '1.0'] * 7)}")
    write(root / "train.csv", *train)
    write(root / "valid.csv", *valid)


def chexpert_full_resolution(root: Path) -> None:
    """``chexpert`` as its full resolution is downloaded: the patients of train in three folders of their own."""
    chexpert(root)
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    first.mkdir()
    for patient in sorted((root / "train").iterdir()):
        part = (int(patient.name[-1]) - 1) // 3
        batch = root / f"CheXpert-v1.0 batch {2 + part} (train {1 + part})"
        batch.mkdir(exist_ok=True)
        patient.rename(batch / patient.name)
    (root / "train").rmdir()
    for name in ("valid", "train.csv", "valid.csv"):
        (root / name).rename(first / name)


def chestxray14(root: Path, v2020: bool = False) -> None:
    lines = [
        f"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient {'Sex' if v2020 else 'Gender'},"
        f"View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]{'' if v2020 else ','}"
    ]
    findings = ("No Finding", "Cardiomegaly|Effusion", "Hernia", "Infiltration", "Pleural_Thickening")
    train, test = [], []
    for patient in range(1, 13):
        for image in range(2):
            name = f"{patient:08d}_{image:03d}.png"
            picture(root / f"images_{1 + patient % 2:03d}" / "images" / name, (6, 8))
            age = "058Y" if patient % 3 else "414"
            who = f"{patient},{'58' if v2020 else age},{'MF'[patient % 2]}"
            end = "" if v2020 else ","
            lines.append(f"{name},{findings[patient % 5]},{image},{who},PA,2682,2749,0.143,0.143{end}")
            (test if patient > 9 else train).append(name)
    write(root / ("Data_Entry_2017_v2020.csv" if v2020 else "Data_Entry_2017.csv"), *lines)
    write(root / "train_val_list.txt", *train)
    write(root / "test_list.txt", *test)


def mimic_cxr_jpg(root: Path) -> None:
    head = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns"
    metadata, splits = [head], ["dicom_id,study_id,subject_id,split"]
    labels = ["subject_id,study_id," + ",".join(sorted(CHEXPERT))]
    for i in range(6):
        subject, study = 10000032 + i, 50414267 + i
        split = ("train", "train", "train", "train", "validate", "test")[i]
        for view in ("PA", "LATERAL"):
            name = f"{i}{view.lower()}aa-bb"
            picture(root / f"files/p10/p{subject}/s{study}/{name}.jpg", (6, 8))
            metadata.append(f"{name},{subject},{study},CHEST (PA AND LAT),{view},3056,2544")
            splits.append(f"{name},{study},{subject},{split}")
        labels.append(f"{subject},{study}," + ",".join(("1.0", "0.0", "-1.0", "")[(i + k) % 4] for k in range(14)))
    for name, lines in (("metadata", metadata), ("split", splits), ("chexpert", labels)):
        write(root / f"mimic-cxr-2.0.0-{name}.csv.gz", *lines)


def vindr_cxr(root: Path) -> None:
    train = [",".join(("image_id", "rad_id", *VINDR_CXR, "Other diseases", "No finding"))]
    test = [",".join(("image_id", *VINDR_CXR, "Other disease", "No finding"))]
    for i in range(6):
        dicom(root / f"train/{i:032x}.dicom")
        for reader in range(3):
            flags = ["0"] * 28
            flags[3] = str(int(reader < i % 4))  # cardiomegaly: 0 to 3 of 3 readers
            train.append(f"{i:032x},R{reader},{','.join(flags)}")
    dicom(root / f"test/{99:032x}.dicom")
    test.append(f"{99:032x}," + ",".join(["0"] * 27 + ["1"]))
    write(root / "annotations/image_labels_train.csv", *train)
    write(root / "annotations/image_labels_test.csv", *test)


def padchest(root: Path, findings: Sequence[str] = _PADCHEST_FINDINGS) -> None:
    lines = [",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels"]
    for i, labels in enumerate(findings):
        name = f"{216840111366964012 + i}_00-1-{i}.png"
        (root / "0").mkdir(parents=True, exist_ok=True)
        Image.fromarray(_GENERATOR.integers(0, 65535, (6, 8), dtype=np.uint16)).save(root / "0" / name)
        lines.append(f'{i},{name},0,20140911,S{i},P{i // 2},1940,{"MF"[i % 2]},{("PA", "L")[i % 2]},"{labels}"')
    write(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", *lines)


def vindr_mammo(root: Path) -> None:
    lines = ["study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split"]
    for i in range(12):
        study, image = f"s{i // 4:030x}", f"{i:032x}"
        dicom(root / f"images/{study}/{image}.dicom")
        birads, split = f"BI-RADS {1 + i % 5}", "training" if i < 8 else "test"
        view = f"{'LR'[i % 2]},{('CC', 'MLO')[i // 2 % 2]}"
        lines.append(f"{study},se,{image},{view},3518,2800,{birads},DENSITY {'ABCD'[i % 4]},{split}")
    write(root / "breast-level_annotations.csv", *lines)


def cbis_ddsm(root: Path) -> None:
    head = (
        "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,"
        "mass margins,assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
    )
    for kind, part in (("Mass", "Training"), ("Mass", "Test"), ("Calc", "Training"), ("Calc", "Test")):
        lines = [head]
        for i in range(1, 5):
            patient = 10 * (part == "Test") + 100 * (kind == "Calc") + i
            folder = f"{kind}-{part}_P_{patient:05d}_LEFT_CC"
            dicom(root / f"CBIS-DDSM/{folder}/07-20-2016-DDSM-NA-74994/1.000000-full mammogram images-24515/1-1.dcm")
            dicom(root / f"CBIS-DDSM/{folder}_1/07-20-2016-DDSM-NA-1/1.000000-ROI mask images-2/1-1.dcm")
            for lesion, pathology in enumerate(
                ("BENIGN_WITHOUT_CALLBACK", "MALIGNANT" if i % 2 else "BENIGN"), start=1
            ):
                uid = "1.3.6.1.4.1.9590.100.1.2.42"
                path = f"{folder}/{uid}/{uid}1/000000.dcm"
                finding = f"{lesion},{kind.lower()},OVAL,SPICULATED,4,{pathology},4"
                lines.append(f"P_{patient:05d},3,LEFT,CC,{finding},{path},{folder}_1/x,y")
        split = {"Training": "train", "Test": "test"}[part]
        write(root / f"{kind.lower()}_case_description_{split}_set.csv", *lines)


def pad_ufes_20(root: Path) -> None:
    lines = [
        "patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,skin_cancer_history,"
        "cancer_history,has_piped_water,has_sewage_system,fitspatrick,region,diameter_1,diameter_2,diagnostic,itch,grew,"
        "hurt,changed,bleed,elevation,img_id,biopsed"
    ]
    for i in range(18):
        name = f"PAT_{i // 2}_{i}_{900 + i}.png"
        picture(root / f"images/imgs_part_{1 + i % 3}" / name)
        sex = "FEMALE" if i % 2 else "MALE"
        known = f"False,False,POMERANIA,POMERANIA,{40 + i},False,{sex},True,True,True,True,{i % 6}.0"
        known = known if i % 3 else f",,,,{40 + i},,,,,,,"
        diagnostic = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")[i // 2 % 6]
        lines.append(f"PAT_{i // 2},{i},{known},NECK,6.0,5.0,{diagnostic},True,True,False,True,True,True,{name},True")
    write(root / "metadata.csv", *lines)


def ham10000(root: Path, metadata: str = "HAM10000_metadata.csv") -> None:
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for i in range(28):
        name = f"ISIC_{24306 + i:07d}"
        picture(root / f"HAM10000_images_part_{1 + i % 2}" / f"{name}.jpg")
        binary_mask(root / "HAM10000_segmentations_lesion_tschandl" / f"{name}_segmentation.png", slice(0, 2))
        dx = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")[i // 2 % 7]
        sex, age = ("unknown", "") if i == 3 else ("male", "80.0")
        lines.append(f"HAM_{i // 2:07d},{name},{dx},histo,{age},{sex},scalp")
    if metadata.endswith(".tab"):  # as Dataverse makes it of the table: tabs, texts in quotes
        names = (name for name in lines[0].split(","))
        rows = ([*line.split(","), "vidir_modern"] for line in lines[1:])
        quoted = ("\t".join(cell if cell in ("", "80.0") else f'"{cell}"' for cell in row) for row in rows)
        lines = ["\t".join((*names, "dataset")), *quoted]
    write(root / metadata, *lines)


def isic2019(root: Path) -> None:
    classes = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    truth, metadata = ["image," + ",".join(classes)], ["image,age_approx,anatom_site_general,lesion_id,sex"]
    for i in range(16):
        name = f"ISIC_{i:07d}" + ("_downsampled" if i % 4 == 1 else "")
        picture(root / "ISIC_2019_Training_Input" / f"{name}.jpg")
        truth.append(f"{name}," + ",".join("1.0" if k == i % 8 else "0.0" for k in range(9)))
        metadata.append(f"{name},{'' if i == 2 else '55.0'},anterior torso,{f'BCN_{i // 2}' if i > 1 else ''},female")
    write(root / "ISIC_2019_Training_GroundTruth.csv", *truth)
    write(root / "ISIC_2019_Training_Metadata.csv", *metadata)


def isic2020(root: Path, table: str = "train.csv", images: str = "jpeg/train") -> None:
    lesion = "lesion_id," if table.endswith("_v2.csv") else ""
    lines = [
        f"image_name,patient_id,{lesion}sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
    ]
    for i in range(20):
        name = f"ISIC_{2637011 + i}"
        picture(root / images / f"{name}.jpg")
        outcome = "malignant,1" if i % 4 == 0 else "benign,0"
        lines.append(f"{name},IP_{i // 2},{lesion and f'IL_{i},'}male,45.0,head/neck,unknown,{outcome}")
    write(root / table, *lines)


def eyepacs(root: Path) -> None:
    train, test = ["image,level"], ["image,level,Usage"]
    for i in range(20):
        for eye in ("left", "right"):
            folder, lines, more = ("train", train, "") if i < 16 else ("test", test, ",Private")
            picture(root / folder / f"{i + 10}_{eye}.jpeg")
            lines.append(f"{i + 10}_{eye},{i % 5}{more}")
    write(root / "trainLabels.csv", *train)
    write(root / "retinopathy_solution.csv", *test)


def aptos2019(root: Path) -> None:
    lines = ["id_code,diagnosis"]
    for i in range(20):
        picture(root / "train_images" / f"{i:012x}.png")
        lines.append(f"{i:012x},{i % 5}")
    write(root / "train.csv", *lines)


def shenzhen(root: Path) -> None:
    readings = (
        "male 45yrs\nnormal",
        "female  33 yrs\nright PTB",
        "Male, 11 months\nnormal",
        "unreadable",
        "female 24yrs\nnormal",
    )
    for i in range(10):
        name = f"CHNCXR_{i + 1:04d}_{i % 2}"
        picture(root / "ChinaSet_AllFiles/CXR_png" / f"{name}.png")
        write(root / "ChinaSet_AllFiles/ClinicalReadings" / f"{name}.txt", readings[i % 5])


def montgomery(root: Path) -> None:
    for i in range(8):
        name = f"MCUCXR_{i + 1:04d}_{i % 2}"
        picture(root / "CXR_png" / f"{name}.png", (6, 8))
        binary_mask(root / "ManualMask/leftMask" / f"{name}.png", slice(0, 2))
        binary_mask(root / "ManualMask/rightMask" / f"{name}.png", slice(4, 5))
        write(
            root / "ClinicalReadings" / f"{name}.txt", f"Patient's Sex: {'FM'[i % 2]} ", "Patient's Age: 027Y", "normal"
        )


def siim_acr(root: Path) -> None:
    lines = ["ImageId, EncodedPixels", *_siim_images(root, "dicom-images-train", range(6))]
    dicom(root / "dicom-images-train/1.9.1/1.9.2/1.9.3.dcm")  # has no line: not part of the set
    write(root / "train-rle.csv", *lines)


def siim_acr_stage_2(root: Path) -> None:
    """The second stage: one table of the images that the first stage had for training and for testing."""
    lines = [*_siim_images(root, "dicom-images-train", range(4)), *_siim_images(root, "dicom-images-test", range(4, 8))]
    write(root / "stage_2_train.csv", *(line.replace(", ", ",") for line in ("ImageId, EncodedPixels", *lines)))


def _siim_images(root: Path, folder: str, numbers: range) -> list[str]:
    """Images, and their lines: two for every second one, whose mask is in two parts."""
    lines = []
    for i in numbers:
        name = f"1.2.276.0.7230010.3.1.4.8323329.{i}.1517875160.1"
        dicom(root / f"{folder}/1.2.{i}.1/1.2.{i}.2/{name}.dcm", (1024, 1024))
        lines += [f"{name}, 1024 3 1021 2", f"{name}, 0 1"] if i % 2 else [f"{name}, -1"]
    return lines


def drive_of_grand_challenge(root: Path) -> None:
    """As it is downloaded there: nobody's vessels for the test images."""
    for folder, part, numbers in (("training", "training", range(21, 41)), ("test", "test", range(1, 5))):
        for number in numbers:
            picture(root / folder / "images" / f"{number:02d}_{part}.tif")
            binary_mask(root / folder / "mask" / f"{number:02d}_{part}_mask.gif", slice(0, 5))
            if folder == "training":
                binary_mask(root / folder / "1st_manual" / f"{number:02d}_manual1.gif", slice(1, 2))


def drive(root: Path) -> None:
    for folder, part, numbers in (("training", "training", range(21, 29)), ("test", "test", range(1, 5))):
        for number in numbers:
            picture(root / folder / "images" / f"{number:02d}_{part}.tif")
            binary_mask(root / folder / "1st_manual" / f"{number:02d}_manual1.gif", slice(1, 2))
            binary_mask(root / folder / "mask" / f"{number:02d}_{part}_mask.gif", slice(0, 5))
            if folder == "test":
                binary_mask(root / folder / "2nd_manual" / f"{number:02d}_manual2.gif", slice(1, 3))


def chase_db1(root: Path) -> None:
    for child in range(1, 7):
        for eye in "LR":
            picture(root / f"Image_{child:02d}{eye}.jpg")
            for observer, rows in (("1st", slice(1, 2)), ("2nd", slice(1, 3))):
                binary_mask(root / f"Image_{child:02d}{eye}_{observer}HO.png", rows)


def rsna_pe(root: Path) -> None:
    lines = [
        "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,negative_exam_for_pe,qa_motion,"
        "qa_contrast,flow_artifact,rv_lv_ratio_gte_1,rv_lv_ratio_lt_1,leftsided_pe,chronic_pe,"
        "true_filling_defect_not_pe,rightsided_pe,acute_and_chronic_pe,central_pe,indeterminate"
    ]
    for exam in range(12):
        negative, indeterminate = int(exam % 2 == 0), int(exam == 10)
        for index in range(3):
            name = f"{exam:02d}{index}abc"
            write_dicom(
                root / f"train/study{exam:02d}/series{exam:02d}/{name}.dcm",
                _GENERATOR.integers(0, 4096, (6, 8), dtype=np.uint16),
                RescaleSlope="1", RescaleIntercept="-1024", WindowCenter="40", WindowWidth="400",
            )  # fmt: skip
            present = int(not negative and index == 1)
            lines.append(
                f"study{exam:02d},series{exam:02d},{name},{present},{negative},0,0,0,0,0,0,0,0,0,0,0,{indeterminate}"
            )
    write(root / "train.csv", *lines)


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = (b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck")
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data = _GENERATOR.integers(0, 256, (20, 3072), dtype=np.uint8)
        batch = {
            b"batch_label": _python2_text(b"batch 1 of 5"),
            b"labels": _python2_list(b"K" + bytes([i % 10]) for i in range(20)),
            b"data": _python2_array(data),
            b"filenames": _python2_list(_python2_text(f"camion_s_{i:06d}.png".encode()) for i in range(20)),
        }
        (folder / name).write_bytes(_python2_pickle(batch))
    meta = {
        b"num_cases_per_batch": b"M\x10'",
        b"label_names": _python2_list(map(_python2_text, names)),
        b"num_vis": b"M\x00\x0c",
    }
    (folder / "batches.meta").write_bytes(_python2_pickle(meta))


def _python2_pickle(items: dict[bytes, bytes]) -> bytes:
    """A mapping as Python 2 pickles it (protocol 2, byte strings); values are opcodes."""
    return b"\x80\x02}(" + b"".join(_python2_text(key) + value for key, value in items.items()) + b"u."


def _python2_list(items: Iterable[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def _python2_text(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def _python2_array(array: Any) -> bytes:
    """A matrix of bytes as numpy 1 pickles it under Python 2."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(b"J" + struct.pack("<i", size) for size in array.shape) + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", array.size) + array.tobytes() + b"tb"


def medmnist(root: Path) -> None:
    """The twelve files with the release's arrays: images, and labels of shape (n, 1) or, with several, (n, 14)."""
    classes = {
        "pathmnist": 9, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5, "breastmnist": 2,
        "bloodmnist": 8, "tissuemnist": 8, "organamnist": 11, "organcmnist": 11, "organsmnist": 11, "chestmnist": 14,
    }  # fmt: skip
    coloured = ("pathmnist", "dermamnist", "retinamnist", "bloodmnist")
    root.mkdir(parents=True, exist_ok=True)
    for name, count in classes.items():
        arrays: dict[str, Any] = {}
        for split, rounds in (("train", 2), ("val", 1), ("test", 1)):
            numbers = np.tile(np.arange(count, dtype=np.uint8), rounds)
            shape = (len(numbers), 28, 28, *((3,) if name in coloured else ()))
            arrays[f"{split}_images"] = _GENERATOR.integers(0, 256, shape, dtype=np.uint8)
            arrays[f"{split}_labels"] = np.eye(14, dtype=np.uint8)[numbers] if count == 14 else numbers[:, None]
        np.savez_compressed(root / f"{name}.npz", **arrays)


RELEASES: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        aptos2019, cbis_ddsm, chase_db1, chestxray14, chexpert, cifar10, drive, eyepacs, ham10000, isic2019, isic2020,
        mimic_cxr_jpg, montgomery, pad_ufes_20, padchest, rsna_pe, shenzhen, siim_acr, vindr_cxr, vindr_mammo,
    )
}  # fmt: skip
"""Name of a data set -> what writes a small copy of its release into a folder."""

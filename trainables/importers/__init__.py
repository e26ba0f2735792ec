"""From the layouts that data sets come in to manifests."""

from trainables.importers.catalogue import shipped_map as shipped_map
from trainables.importers.catalogue import shipped_names as shipped_names
from trainables.importers.catalogue import user_map as user_map
from trainables.importers.from_cifar10 import import_cifar10 as import_cifar10
from trainables.importers.from_csv import import_csv as import_csv
from trainables.importers.from_folder import import_folder as import_folder
from trainables.importers.from_map import import_map as import_map
from trainables.importers.from_medmnist import import_medmnist as import_medmnist
from trainables.importers.from_npz import import_npz as import_npz
from trainables.importers.options import BlankLabels as BlankLabels
from trainables.importers.options import ImportOptions as ImportOptions

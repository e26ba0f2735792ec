"""From the layouts that data sets come in to manifests."""

from trainables.importers.from_csv import import_csv as import_csv
from trainables.importers.from_folder import import_folder as import_folder
from trainables.importers.from_npz import import_npz as import_npz
from trainables.importers.options import BlankLabels as BlankLabels
from trainables.importers.options import ImportOptions as ImportOptions

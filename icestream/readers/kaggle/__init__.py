"""Reads and writes data sets in the format of the IceCube Kaggle competition.

A data set is a folder:

    train_meta.parquet, test_meta.parquet   one row per event: batch_id, event_id, first_pulse_index and
                                            last_pulse_index (rows of the batch file, inclusive), azimuth,
                                            zenith (both absent in test)
    train/batch_N.parquet, test/...         one row per pulse: event_id (index or column), sensor_id, time,
                                            charge, auxiliary
    sensor_geometry.csv                     optional, see `icestream.readers.geometry`

Ours add what Kaggle's lacks as optional meta columns: `energy_gev`, `kind` (a number of `EventKind`) and
`start_unix_ns`. The format has no run number: an event's `batch_id` is its run when it is read.
"""

from icestream.readers.kaggle.dataset import DatasetFacts, KaggleDataset
from icestream.readers.kaggle.layout import Split
from icestream.readers.kaggle.writer import KaggleWriter

__all__ = ["DatasetFacts", "KaggleDataset", "KaggleWriter", "Split"]

"""What another package would bring."""

from icestream.scans.recos.dummy import Dummy


class Theirs(Dummy):
    """A reco of somebody else."""

    name = "theirs"


RECO = Theirs()

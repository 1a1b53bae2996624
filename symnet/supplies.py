"""What the jobs of an experiment read that its user, or we, bring: who brings each thing, what is missing, what will be fetched."""

import os
from pathlib import Path

from symnet.artifacts import mark
from symnet.backbones import weights_path
from symnet.data.catalogue import CATALOGUE, load_catalogue
from symnet.experiment import Experiment
from symnet.provision import NEEDS, Need, Provision


class Supplies:
    """Of all data sets of an experiment. `names`: of what we fetch or make; `wanted`: the first data set that asked for each.

    `write`: forget what was fetched and is gone (the main process only).
    """

    def __init__(self, experiment: Experiment, write: bool) -> None:
        self.root, self._settings, self._datasets = experiment.root, experiment.settings, list(experiment.datasets)
        catalogue = load_catalogue(Path(os.environ.get("SYMNET_CATALOGUE") or CATALOGUE))
        self.provision = Provision(self.root, catalogue, experiment.download)
        if write:
            self.provision.forget_what_is_gone()
        self.wanted: dict[str, str] = {}
        self.names = list(self._needs_by_name())

    def weights_mark(self, dataset: str) -> str:
        """Changes when the user's file of backbone weights does; empty where it is absent, or ours: then its marker tells."""
        return "" if self._brought(dataset, "weights") else mark(weights_path(self._settings(dataset).backbone, self.root))

    def vectors_mark(self, dataset: str) -> str:
        """Changes when the user's file of word vectors does; empty where it is absent, or ours: then its marker tells."""
        source = self._settings(dataset).text.source
        return "" if source == "shapes" or self._brought(dataset, "vectors") else mark(self.root / source)

    def fetched(self, dataset: str, what: str) -> list[str]:
        """Markers of what we fetch or make for `what` (data, weights, vectors) of a data set; none where the user brought it."""
        return [str(self.provision.marker(name)) for name in self._brought(dataset, what)]

    def before(self, name: str) -> list[str]:
        """Markers of what has to be in place before `name` is fetched or made."""
        return [str(self.provision.marker(one)) for one in self.provision.before(name, self._settings(self.wanted[name]).data)]

    def missing(self) -> list[str]:
        """One line for each thing that has to be there, is not, and is the user's to bring: what, from where it comes, where it goes."""
        lines = []
        for dataset in self._datasets:
            settings = self._settings(dataset)
            for need in self.provision.missing([need for of in NEEDS.values() for need in of(settings)], settings.data):
                place = self.root / need.place
                lines.append(
                    f"{dataset}: {need.what} missing: put it at {place}, under data_root (a key of the experiment file, or SYMNET_DATA); "
                    f"{self.provision.origin(need)}"
                )
        return lines

    def to_fetch(self) -> list[str]:
        """One line for each thing that is not there and that the workflow will fetch or make."""
        absent = {name: need for name, need in self._needs_by_name().items() if not self.provision.marker(name).is_file()}
        return [
            f"{self.wanted[name]}: {n.what} will be put at {self.root / n.place}: {self.provision.in_words(name)}"
            for name, n in absent.items()
        ]

    def _brought(self, dataset: str, what: str) -> dict[str, Need]:
        settings = self._settings(dataset)
        return self.provision.brought(NEEDS[what](settings), settings.data)

    def _needs_by_name(self) -> dict[str, Need]:
        """Everything that we fetch or make, what it waits for included, and in `wanted` the first data set that asked for it."""
        found: dict[str, Need] = {}
        for dataset in self._datasets:
            for what in NEEDS:
                waiting = self._brought(dataset, what)
                while waiting:
                    name, need = waiting.popitem()
                    if name not in found:
                        found[name] = need
                        self.wanted[name] = dataset
                        for one in self.provision.before(name, self._settings(dataset).data):
                            entry = self.provision.catalogue[one]
                            waiting[one] = Need(entry.note or entry.name, entry.place)
        return found

"""The aliases of a trainer: names that programs call, and the models they stand for. An extension of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping

from trainers import answers
from trainers.calls import Calls


class AliasCalls(Calls):
    """For a trainer with the ability `aliases`."""

    def aliases(self) -> Mapping[str, str]:
        """The model that each stands for."""
        doing = self._doing("listing the aliases")
        content = self._get(doing, lambda: self._client.get("/aliases", cast_to=bytes))
        rows, _ = answers.read_list(content, doing)
        return {answers.required(row, "id", doing): answers.required(row, "model", doing) for row in rows}

    def point(self, alias: str, model: str) -> None:
        """From now on `alias` stands for `model`. Done twice it is as if done once, so it may be sent again."""
        doing = self._doing(f"pointing {alias!r} to {model!r}")
        body = {"model": model}
        content = self._once(doing, lambda: self._client.put(f"/aliases/{alias}", body=body, cast_to=bytes))
        answers.read_object(content, doing)

    def unpoint(self, alias: str) -> None:
        """The name answers no more; one that is gone already is no error."""
        doing = self._doing(f"taking the name {alias!r} away")
        self._gone(doing, lambda: self._client.delete(f"/aliases/{alias}", cast_to=bytes))

"""Statements about the files of runs: `agent_files`, written by the worker that has the run."""

from turbo.db.store import Store
from turbo.domain.claim import ClaimRef
from turbo.domain.kept import KeptFile


class FileStore(Store):
    async def write(self, claim: ClaimRef, file: KeptFile, deadline: float | None = None) -> bool:
        """False: there is no such task, or its row does not know this claim. `deadline` in seconds."""
        parameters = {
            "task_id": claim.task_id,
            "token": claim.token,
            "path": file.path,
            "bytes": file.content,
            "sha256": file.sha256,
        }
        return bool(await self._rows("files/write", parameters, deadline))

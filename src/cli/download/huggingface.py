"""`hf:<owner>/<repository>[@<revision>][#<file or pattern>]`, through `huggingface_hub`.

The library asks the hub for the commit and the files of a revision. All files are fetched from that
commit, so they belong together. HF_ENDPOINT names another hub. The token is HF_TOKEN, never one
that the library has stored.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cli.client.proxies import (
    is_refused_certificate,
    open_client,
    reason,
    refused_certificate,
)
from cli.download.file_selection import select_files
from cli.download.http_headers import retry_after_s
from cli.download.retry import TransientError, with_retries
from cli.download.source import (
    Credential,
    Reference,
    RemoteFile,
    ResolvedModel,
    parse_origin,
    read_endpoint,
    read_token,
    to_model_name,
)
from cli.errors import Failure
from shared.errors import ModelUnavailable
from shared.models.folder import DESCRIPTOR, check_name

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

DEFAULT_ENDPOINT = "https://huggingface.co"
REMEDY = "set HF_TOKEN to a token that may read it, and accept its licence on its page first"
_REFERENCE = re.compile(r"(?P<repo>[^@#]+)(@(?P<revision>[^#]+))?(#(?P<pattern>.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(reference: Reference) -> ResolvedModel:
    """Ask the hub. Raises `Failure` with the remedy, `ModelUnavailable` for files not accepted."""
    match = _REFERENCE.fullmatch(reference.rest)
    if match is None:
        raise Failure(
            f"hf:{reference.rest} is not hf:<repository>[@<revision>][#<file or pattern>]"
        )
    repo, endpoint = match["repo"], read_endpoint("HF_ENDPOINT", DEFAULT_ENDPOINT)
    token = read_token("HF_TOKEN")
    origin = parse_origin(endpoint)
    info = with_retries(lambda: _ask(repo, match["revision"], endpoint, token), what=repo)
    from huggingface_hub import hf_hub_url

    commit = _commit(repo, info)
    files = _files_by_name(repo, info)
    files.pop(DESCRIPTOR, None)  # of another installation; this one writes its own
    include = (*reference.include, *([match["pattern"]] if match["pattern"] else ()))
    chosen, skipped = select_files(list(files), include, reference.exclude)
    if not chosen:
        raise Failure(f"{repo} holds no file that was asked for and can be used", hint=_hint(files))
    return ResolvedModel(
        name=to_model_name(repo.rsplit("/", 1)[-1]),
        version=commit[:12],
        uri=f"hf:{repo}",
        revision=commit,
        files=tuple(
            _remote_file(files[name], hf_hub_url(repo, name, revision=commit, endpoint=endpoint))
            for name in chosen
        ),
        skipped=tuple(skipped),
        license=_license(info),
        credential=Credential(token=token, origin=origin) if token else None,
        remedy=REMEDY,
    )


def _commit(repo: str, info: ModelInfo) -> str:
    """The commit of the revision now. A branch or tag may name another commit tomorrow."""
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise Failure(f"{repo}: the hub does not say which commit its revision is")
    return info.sha


def _files_by_name(repo: str, info: ModelInfo) -> dict[str, RepoSibling]:
    files: dict[str, RepoSibling] = {}
    for file in info.siblings or ():
        if not isinstance(file.rfilename, str) or not _is_size(file.size):
            raise Failure(f"{repo}: the hub lists a file without a name, or of an odd size")
        if file.rfilename in files:
            raise Failure(f"{repo}: the hub lists {file.rfilename!r} twice")
        files[file.rfilename] = file
    return files


def _is_size(value: object) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _license(info: ModelInfo) -> str | None:
    """The licence on the model's card; some cards name several."""
    names = info.card_data.license if info.card_data else None
    if isinstance(names, list):
        return ", ".join(map(str, names))
    return None if names is None else str(names)


def _hint(files: dict[str, RepoSibling]) -> str:
    for name in files:
        try:
            check_name(name)
        except ModelUnavailable as error:
            if "pickle" in error.message or name.lower().endswith(".gguf"):
                return error.message
    return f"it holds {', '.join(sorted(files)[:10]) or 'nothing'}"


def _remote_file(file: RepoSibling, url: str) -> RemoteFile:
    return RemoteFile(
        path=file.rfilename,
        url=url,
        size_bytes=file.size,
        sha256=file.lfs.sha256 if file.lfs else None,
        git_sha1=None if file.lfs else file.blob_id,
    )


def _ask(repo: str, revision: str | None, endpoint: str, token: str | None) -> ModelInfo:
    """Ask the hub once. Raises `TransientError` for a problem that may pass."""
    # Else the library tells the hub what runs here, and first asks for a list of programs to find.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, errors

    open_client().close()  # the library makes one like it, and would answer with a traceback
    api = HfApi(endpoint=endpoint, token=token or False)
    try:
        return api.model_info(repo, revision=revision, files_metadata=True, timeout=30)
    except errors.GatedRepoError:
        raise Failure(f"{repo} asks for a licence to be accepted", hint=REMEDY) from None
    except errors.RevisionNotFoundError:
        raise Failure(f"{repo} has no revision {revision}") from None
    except errors.RepositoryNotFoundError:  # the hub does not tell a private one from none at all
        raise Failure(f"{repo} is not there, or it is private", hint=REMEDY) from None
    except errors.OfflineModeIsEnabled:
        raise Failure("HF_HUB_OFFLINE forbids asking the hub", hint="unset it") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (408, 425, 429) or status >= 500:
            raise TransientError(
                f"{urlsplit(endpoint).hostname} answered {status}",
                retry_after_s(error.response.headers),
            ) from None
        raise Failure(f"{endpoint} answered {status}", hint=REMEDY) from None
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of its HTTP client
        if is_refused_certificate(error):
            raise refused_certificate(str(urlsplit(endpoint).hostname), error) from None
        raise TransientError(f"cannot reach {endpoint}{reason(error, endpoint)}") from None
    except ValueError as error:  # a bad repository name, or an answer that is no JSON
        why = str(error).splitlines() or [type(error).__name__]
        raise Failure(f"{repo}: {why[0]}") from None
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        # The library takes the hub's JSON apart without looking.
        raise Failure(f"{repo}: {endpoint} answered oddly ({type(error).__name__})") from None

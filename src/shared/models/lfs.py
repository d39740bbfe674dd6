"""Pointers of Git LFS: what a clone without LFS has in the place of its large files."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
NO_FILE_BUT_A_POINTER = (
    "a pointer of Git LFS, and not the file itself; run `git lfs pull` in the clone"
)


def is_lfs_pointer(content: bytes) -> bool:
    """Whether a file that begins so is a pointer."""
    return content.startswith(LFS_POINTER)

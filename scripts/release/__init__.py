"""What `make lock`, `make licences` and `make release` run: docs/release.md."""

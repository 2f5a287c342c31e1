#!/usr/bin/env bash
# clean-cache.sh: removes the cache folder, after everything in it was stopped (`make distclean`).
. "$(dirname "$0")/lib.sh"

unmount_below "$CACHE" # podman's own
rm -rf --one-file-system "$CACHE"
say "removed $CACHE"

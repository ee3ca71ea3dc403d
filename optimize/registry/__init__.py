"""Published versions: files named by their digest, and manifests that name them, in a folder or in a bucket.

    <registry>/blobs/sha256/<digest>                             a file
    <registry>/models/<name>/<version>/manifest.json             a version: 1, 2, 3 ...
    <registry>/models/<name>/<version>/validated-<machine>.json  what `optimize validate` found for it on another machine
    <registry>/models/<name>/current                             the number of the version that is served
    <registry>/reports/<name>/result.json                        the outcome of the last full export, published or not

A file appears whole or not at all, and a version number is claimed by creating its manifest, which only one writer can do. `versions`
has the rules; `folder` and `bucket` implement the few operations of `store` for them, and `pull` copies a version into a registry that
holds nothing else. A killed export leaves at most temporary files in a folder, which no reader looks at.
"""

from optimize.registry.versions import Registry, location

__all__ = ["Registry", "location"]

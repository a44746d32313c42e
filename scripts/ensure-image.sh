#!/usr/bin/env bash
# The images moorage-python:1 and moorage-test-busybox:1 are there when this ends with 0.
set -euo pipefail

has() { docker image inspect "$1" >/dev/null 2>&1; }

need() {
  command -v "$1" >/dev/null && return
  if test "$(id -u)" -ne 0 || ! command -v apt-get >/dev/null; then
    echo "moorage: no registry answers and $1 is missing; install the package $2, then try again" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

# The mirror that this machine itself uses; empty where there is none, and then debootstrap's own default holds.
mirror() {
  {
    sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
    sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true
  } | grep -E '/debian/?$' | head -n 1 || true
}

python_from_registry() {
  timeout 20 docker pull -q python:3.12-slim >/dev/null 2>&1 && docker tag python:3.12-slim moorage-python:1
}

python_from_packages() {
  if test "$(id -u)" -ne 0; then
    echo "moorage: no registry answers, and making an image from Debian's packages needs root" >&2
    exit 1
  fi
  need debootstrap debootstrap
  echo "no registry answers: making moorage-python:1 from Debian's packages (about a minute)"
  debootstrap --variant=minbase --include=python3-minimal,ca-certificates bookworm "$folder/root" $(mirror) \
    >"$folder/log" 2>&1 || { tail -n 20 "$folder/log" >&2; exit 1; }
  rm -rf "$folder/root/var/cache/apt/archives" "$folder/root/var/lib/apt/lists"
  tar -C "$folder/root" --numeric-owner -c . | docker import \
    --change 'CMD ["python3"]' \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    - moorage-python:1 >/dev/null
}

busybox_from_package() {
  need busybox busybox-static
  mkdir -p "$folder/busybox/bin" "$folder/busybox/tmp" "$folder/busybox/etc" "$folder/busybox/root"
  cp "$(command -v busybox)" "$folder/busybox/bin/busybox"
  for name in $("$folder/busybox/bin/busybox" --list); do
    test "$name" = busybox || ln -sf busybox "$folder/busybox/bin/$name"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$folder/busybox/etc/passwd"
  chmod 1777 "$folder/busybox/tmp"
  tar -C "$folder/busybox" --numeric-owner --owner=0 --group=0 -c . | docker import \
    --change 'CMD ["/bin/sh"]' --change 'ENV PATH=/bin' - moorage-test-busybox:1 >/dev/null
}

if has moorage-python:1 && has moorage-test-busybox:1; then exit 0; fi
folder="$(mktemp -d)"
trap 'rm -rf --one-file-system "$folder"' EXIT
has moorage-test-busybox:1 || busybox_from_package
has moorage-python:1 || python_from_registry || python_from_packages

#!/bin/sh
# Makes what the image consists of. The Dockerfile runs this and copies the two
# directories; a test runs the same and starts the result in a chroot.
#
#   deploy/image/rootfs.sh OUT
#
# OUT/rootfs  the root file system: the program, certificates, licences, SBOM
# OUT/data    the empty directory that becomes /data, of user 65532
#
# From the environment: TARGETOS, TARGETARCH (as for GOOS and GOARCH; default:
# this machine), VERSION, REVISION. The same sources, Go and certificates give
# the same bytes, wherever the sources lie. It needs Go, and the module proxy for
# what is not in the module cache.
set -eu
umask 022
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."

# Pinned: the SBOM's form is part of what is reproduced.
sbom_tool=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

root=$out/rootfs
doc=$root/usr/share/doc/larkside
rm -rf "$root" "$out/data"
mkdir -p "$root/etc/ssl/certs" "$doc" "$out/data"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT

export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
export GOOS="${TARGETOS:-$(go env GOOS)}" GOARCH="${TARGETARCH:-$(go env GOARCH)}"

go build -ldflags="-s -w -X main.version=${VERSION:-devel} -X main.revision=${REVISION:-unknown}" \
  -o "$root/larkside" ./cmd/larkside

# Read from the program itself. Without a serial number and a time, which would be
# new each time. The licences are in the notices.
# The tool runs here, whatever the target is. go run keeps what it has linked.
(unset GOOS GOARCH && go run "$sbom_tool" bin -json -std -noserial -notimestamp -version "${VERSION:-devel}" \
  -output "$doc/sbom.cdx.json" "$root/larkside") 2>"$tools/log" || { cat "$tools/log" >&2; exit 1; }

# The licences of everything that is linked ask to be passed on with it: those
# at the top of a module and those beside a package.
notices() {
  echo "Larkside is made with the software below. Each part is under the licence"
  echo "that follows its name."
  license_files "the Go standard library" "$(go env GOROOT)"
  go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}|{{.Dir}}|{{$.Dir}}{{end}}{{end}}' ./cmd/larkside |
    LC_ALL=C sort -u >"$tools/packages"
  last=
  while IFS='|' read -r module dir package; do
    [ "$module" = "$last" ] || license_files "$module" "$dir"
    last=$module
    while [ "$package" != "$dir" ]; do
      license_files "$module, ${package#"$dir/"}" "$package" nested
      package=$(dirname "$package")
    done
  done <"$tools/packages"
}

# license_files NAME DIR [nested]: prints them; one that is not nested must have
# some. Each nested one once.
license_files() {
  grep -qxF "$2" "$tools/seen" 2>/dev/null && return
  echo "$2" >>"$tools/seen"
  find "$2" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'unlicense*' \) \
    ! -name '*.go' | LC_ALL=C sort >"$tools/found"
  if [ ! -s "$tools/found" ]; then
    [ "${3:-}" = nested ] || { echo "$1 has no licence file" >&2; exit 1; }
    return
  fi
  while read -r file; do
    printf '\n==== %s (%s) ====\n\n' "$1" "$(basename "$file")"
    cat "$file"
  done <"$tools/found"
}
notices >"$doc/THIRD_PARTY_NOTICES"
cp LICENSE "$doc/LICENSE"

cp "${CA_CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
# A name for the user, where something asks for one.
echo 'nonroot:x:65532:65532:nonroot:/data:/sbin/nologin' >"$root/etc/passwd"
echo 'nonroot:x:65532:' >"$root/etc/group"

chmod -R u=rwX,go=rX "$root"
chmod 0755 "$root/larkside"
chmod 0700 "$out/data"
find "$out" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +

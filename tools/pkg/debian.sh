#!/bin/sh
# Unpacks packages of any Debian suite and architecture into a folder, beside the system and without root.
# Usage: sh tools/pkg/debian.sh SUITE DIR PACKAGE...     PACKAGE: name, name:ARCH, or src:name (unpacked in DIR/src)
# The mirror and the keys are those that this machine's own apt uses. What DIR has already is not fetched again.
set -eu
[ $# -ge 3 ] || { sed -n '3s/^# //p' "$0"; exit 2; }
suite=$1 dir=$2
shift 2
command -v apt-get >/dev/null || { echo "debian.sh: needs apt-get (Debian or Ubuntu)" >&2; exit 1; }
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
for package; do [ -e "$dir/.have/$package" ] || set -- "$@" "+$package"; shift; done
[ $# -gt 0 ] || exit 0

mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 2>/dev/null | awk '$1 ~ /debian\/?$/ { print $1; exit }')
[ -n "$mirror" ] || mirror=$(sed -n 's/^URIs: *\([^ ]*debian\)\/*$/\1/p; s/^deb [^h]*\(http[^ ]*debian\)\/* .*/\1/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
[ -n "$mirror" ] || { echo "debian.sh: no Debian mirror in this machine's apt sources" >&2; exit 1; }

apt=$dir/.apt/$suite
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/deb" "$dir/.have"
chmod -R a+rX "$dir/.apt"
arches=$(printf '%s\n' "$@" | sed -n 's/^+[a-z].*:\([a-z0-9]*\)$/"\1";/p' | sort -u | tr -d '\n')
key=$(ls /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp 2>/dev/null | head -n 1)
cat > "$apt/sources.list" <<LIST
deb [signed-by=$key] $mirror $suite main
deb-src [signed-by=$key] $mirror $suite main
LIST
cat > "$apt/apt.conf" <<CONF
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$apt/lists";
Dir::Cache "$apt/cache";
APT::Architectures { "$(dpkg --print-architecture)"; $arches };
APT::Sandbox::User "";
CONF
export APT_CONFIG="$apt/apt.conf"
apt-get update -qq
cd "$apt/deb"
for package; do
    name=${package#+}
    case $name in
    src:*)
        mkdir -p "$dir/src"
        (cd "$dir/src" && apt-get source -qq --download-only "${name#src:}" >/dev/null &&
         for dsc in "${name#src:}"_*.dsc; do dpkg-source --no-check -x "$dsc" >/dev/null; done) ;;
    *)
        apt-get download -qq "$name" >/dev/null
        for deb in "${name%:*}"_*.deb; do dpkg-deb -x "$deb" "$dir"; rm -f "$deb"; done ;;
    esac
    touch "$dir/.have/$name"
done

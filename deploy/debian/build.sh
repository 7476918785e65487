#!/usr/bin/env bash
# Makes the Debian package of a built binary: build.sh BINARY VERSION DIRECTORY. Prints the package's path.
set -euo pipefail
binary="$(readlink -f "$1")" version="$2" out="$(readlink -f "$3")"
here="$(dirname "$(readlink -f "$0")")"
repository="$here/../.."
architecture="$(dpkg --print-architecture)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
root="$work/root"
doc="$root/usr/share/doc/portcullis"

# Times inside the package: those of the commit, so that one commit makes one package.
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git -C "$repository" log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH

install -D -m 0755 "$binary" "$root/usr/bin/portcullis"
strip --strip-unneeded "$root/usr/bin/portcullis"
install -D -m 0644 "$here/../portcullis.service" "$root/usr/lib/systemd/system/portcullis.service"
install -D -m 0644 "$here/default" "$root/etc/default/portcullis"
install -D -m 0644 "$here/logrotate" "$root/etc/logrotate.d/portcullis"
install -d -m 0755 "$root/etc/portcullis"

man="$root/usr/share/man/man1"
"$binary" man "$man" >/dev/null
gzip -9n "$man"/*.1
completions() { install -D -m 0644 /dev/stdin "$root/usr/share/$2" < <("$binary" completions "$1"); }
completions bash bash-completion/completions/portcullis
completions zsh zsh/vendor-completions/_portcullis
completions fish fish/vendor_completions.d/portcullis.fish

install -D -m 0644 "$here/copyright" "$doc/copyright"
install -d -m 0755 "$doc/examples" "$doc/runbooks" "$doc/reasons"
install -m 0644 "$here/example.toml" "$doc/examples/portcullis.toml"
install -m 0644 "$here/sysctl.conf" "$doc/examples/sysctl.conf"
install -m 0644 "$here/../prometheus/portcullis.rules.yml" "$here/../grafana/portcullis.json" "$doc/examples/"
install -m 0644 "$repository"/docs/*.md "$doc/"
install -m 0644 "$repository"/docs/runbooks/*.md "$doc/runbooks/"
install -m 0644 "$repository"/docs/reasons/*.md "$doc/reasons/"
printf 'portcullis (%s) unstable; urgency=medium\n\n  * See the repository.\n\n -- Portcullis maintainers <portcullis@localhost>  %s\n' \
    "$version" "$(date -uRd "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
chmod 0644 "$doc/changelog.gz"

# dpkg-shlibdeps wants a source package around it.
mkdir "$work/debian"
printf 'Source: portcullis\n\nPackage: portcullis\nArchitecture: any\n' >"$work/debian/control"
libraries="$(cd "$work" && dpkg-shlibdeps -O "root/usr/bin/portcullis" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')"

install -d -m 0755 "$root/DEBIAN"
size="$(du -sk --exclude=DEBIAN "$root" | cut -f1)"
sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$architecture|; s|@SIZE@|$size|; s|@LIBRARIES@|$libraries|" \
    "$here/control.in" >"$root/DEBIAN/control"
install -m 0644 "$here/conffiles" "$root/DEBIAN/conffiles"
install -m 0755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN/"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

package="$out/portcullis_${version}_$architecture.deb"
# shellcheck disable=SC2086 # Several words: how it is compressed, for those who cannot wait.
dpkg-deb --root-owner-group ${DEB_COMPRESSION:-} --build "$root" "$package" >/dev/null
echo "$package"

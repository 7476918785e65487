#!/bin/bash
# Gives a lab host a file system of its own, as far as the documentation's pages touch it, and keeps it until it ends:
# machine.sh DIRECTORY BINARY REPOSITORY. Whoever enters its mount namespace finds what the package installs in its place
# (the binary and the unit: in the administrator's places), its user, and the commands of stand-ins/.
set -euo pipefail
dir="$1" binary="$2" repository="$3"
here="$(dirname "$(readlink -f "$0")")"

cp -a /etc "$dir/etc"
mount --bind "$dir/etc" /etc
# Kernel objects of this network namespace, and pins that are nobody else's.
mount -t sysfs sysfs /sys
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
for place in /run /var/lib /usr/local/bin /usr/share/doc; do mount -t tmpfs -o mode=0755 tmpfs "$place"; done

# /etc/group and /etc/passwd are copies by now; a user who is there already is one of this machine's own package.
getent passwd portcullis >/dev/null || useradd --system --user-group --home-dir /nonexistent --no-create-home portcullis
# Mounted and not linked: the user may not look where it was built.
touch /usr/local/bin/portcullis
mount --bind "$binary" /usr/local/bin/portcullis
install -m 0755 "$here"/stand-ins/* /usr/local/bin/
rm -rf /etc/portcullis
install -d -m 0750 -g portcullis /etc/portcullis
install -m 0644 "$repository/deploy/portcullis.service" /etc/systemd/system/portcullis.service
examples=/usr/share/doc/portcullis/examples
install -d "$examples"
install -m 0644 "$repository/deploy/debian/example.toml" "$examples/portcullis.toml"
install -m 0644 "$repository"/deploy/{debian/sysctl.conf,prometheus/portcullis.rules.yml,grafana/portcullis.json} "$examples"
[[ ! -e $dir/strongswan.conf ]] || install -m 0644 "$dir/strongswan.conf" /etc/strongswan.conf
install -d -o prometheus -g prometheus /var/lib/prometheus

echo "the machine is up"
exec sleep infinity

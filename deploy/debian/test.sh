#!/usr/bin/env bash
# Installs, starts, watches, upgrades, removes and purges the package in a clean Debian root file system, under a systemd
# of its own: test.sh BINARY. Needs root and, the first time, the network. Everything is in namespaces of its own and
# goes with this script.
# shellcheck disable=SC2016 # What stands in single quotes is for the shell inside.
set -euo pipefail
binary="$(readlink -f "$1")"
here="$(dirname "$(readlink -f "$0")")"
cache="$here/../../target/debian"
work="$(mktemp -d /tmp/portcullis-deb-XXXXXX)"
root="$work/root"
init=""
cgroup=""
passed=0

cleanup() {
    # The first process of a PID namespace takes all others with it.
    [[ -z $init ]] || kill -KILL "$init" 2>/dev/null || true
    [[ -z $init ]] || tail --pid="$init" -f /dev/null
    [[ -z $cgroup ]] || find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

say() { printf '==> [%3ds] %s\n' "$SECONDS" "$*"; }

fail() {
    printf 'deb-test: %s\n' "$*" >&2
    inside journalctl -u portcullis --no-pager -n 30 >&2 || true
    printf '%d passed, 1 failed\n' "$passed"
    exit 1
}

# Runs a command in the root file system, under its systemd.
inside() {
    nsenter --target "$init" --all --root --wd env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        LC_ALL=C "$@"
}

# expect WHAT COMMAND…: the command must succeed.
expect() {
    local what="$1"
    shift
    "$@" >"$work/output" 2>&1 || { cat "$work/output" >&2 && fail "$what: $*"; }
    passed=$((passed + 1))
}

# eventually WHAT SECONDS COMMAND…: the command must succeed within that time.
eventually() {
    local what="$1" deadline=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "$what: $*"
        sleep 0.2
    done
    passed=$((passed + 1))
}

base() {
    [[ -e $cache/base.tar ]] && return
    say "making a clean root file system (once)"
    mkdir -p "$cache"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,adduser,iproute2,libelf1 bookworm "$work/base" \
        >"$work/debootstrap.log" 2>&1 || { tail -5 "$work/debootstrap.log" >&2 && exit 1; }
    tar -C "$work/base" --one-file-system -cf "$cache/base.tar.new" .
    mv "$cache/base.tar.new" "$cache/base.tar"
    rm -rf --one-file-system "$work/base"
}

boot() {
    say "starting systemd in it"
    mkdir "$root"
    tar -C "$root" -xf "$cache/base.tar"
    local hierarchy=/sys/fs/cgroup
    [[ -d $hierarchy/unified ]] && hierarchy=$hierarchy/unified
    cgroup="$hierarchy/portcullis-deb-$$"
    mkdir "$cgroup"
    unshare --mount --pid --uts --ipc --net --fork bash -c '
        set -e
        echo 0 > "$1/cgroup.procs"
        exec unshare --cgroup bash -c "
            set -e
            cd \"\$0\"
            mount --make-rprivate /
            mount --bind . .
            cd \"\$0\"
            mount -t proc proc proc
            mount -t sysfs sysfs sys
            mount -t cgroup2 cgroup2 sys/fs/cgroup
            mount -t bpf -o mode=0700 bpf sys/fs/bpf
            for i in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs \$i; done
            for i in null zero full random urandom tty; do cp -a /dev/\$i dev/; done
            mkdir dev/net dev/pts dev/shm
            cp -a /dev/net/tun dev/net/
            ip link set lo up
            exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
                chroot . /lib/systemd/systemd --system --log-target=null --unit=multi-user.target
        " "$0"
    ' "$root" "$cgroup" 2>"$work/unshare.log" &
    local outer=$!
    local deadline=$((SECONDS + 60))
    until init="$(cat "/proc/$outer/task/$outer/children" 2>/dev/null)" && init="${init// /}" && [[ -n $init ]] &&
        inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; do
        ((SECONDS < deadline)) || { cat "$work/unshare.log" >&2; fail "systemd does not come up"; }
        sleep 0.2
    done
}

files() { (cd "$root" && find etc usr var opt srv -xdev ! -path 'var/log/*' ! -path 'var/cache/*' ! -path 'var/lib/dpkg/*' \
    ! -path 'var/lib/apt/*' ! -path 'var/lib/systemd/*' ! -path 'etc/*-' ! -path 'etc/.pwd.lock' | sort); }

has_state() { [[ "$(inside systemctl is-active portcullis)" == "$1" ]]; }
main_pid() { inside systemctl show portcullis -p MainPID --value; }
restarted_by() { inside systemctl show portcullis -p Result,NRestarts | grep -q "$1"; }

say "packing two versions"
export DEB_COMPRESSION="-Zgzip -z1"
old="$("$here/build.sh" "$binary" 0.0.1 "$work")"
new="$("$here/build.sh" "$binary" 0.0.2 "$work")"
# There is no mail address to give.
expect "lintian finds no error" lintian --allow-root --fail-on error --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog "$new"

base
boot
# What is there is what it needs; there is no network to get what it only recommends.
echo 'APT::Install-Recommends "false";' >"$root/etc/apt/apt.conf.d/99no-recommends"
files >"$work/before"
cp "$old" "$root/root/"
cp "$new" "$root/root/new.deb"

say "installing"
# As docs/quick-start.md has it: its first block of commands for the gateway.
install="$(sed -n '/^```sh gateway install$/,/^```$/ { /^```/d; p }; /^```$/q' "$here/../../docs/quick-start.md")"
expect "the quick start says how to install it" test -n "$install"
expect "it installs" inside sh -euc "cd /root; $install"
expect "its user is there" inside id portcullis
expect "its directory is for that user alone" inside sh -c '[ "$(stat -c "%a %U %G" /etc/portcullis)" = "750 root portcullis" ]'
expect "it is enabled" inside systemctl is-enabled portcullis
expect "without a configuration it is left alone" has_state inactive
expect "nothing has failed" inside sh -c '[ -z "$(systemctl list-units --failed --no-legend)" ]'
expect "its example is valid" inside portcullis check /usr/share/doc/portcullis/examples/portcullis.toml

say "starting"
for side in outside inside; do
    inside ip link add "${side}0" type veth peer name "${side}1"
    inside ip link set "${side}0" up
    inside ip link set "${side}1" up
done
inside ip addr add 192.0.2.1/24 dev outside0
sed 's/^workers = .*/workers = [0]/' "$here/example.toml" >"$root/etc/portcullis/portcullis.toml"
inside chown root:portcullis /etc/portcullis/portcullis.toml
inside chmod 640 /etc/portcullis/portcullis.toml
expect "the doctor finds no error" inside portcullis doctor
expect "it starts" inside systemctl start portcullis
expect "it runs" has_state active
expect "as its user" inside sh -c 'grep -q "^Uid:[[:space:]]*$(id -u portcullis)[[:space:]]" "/proc/$(systemctl show portcullis -p MainPID --value)/status"'
expect "under a system call filter" inside sh -c 'grep -q "^Seccomp:[[:space:]]*2" "/proc/$(systemctl show portcullis -p MainPID --value)/status"'
expect "it answers root" inside portcullis status
expect "it says that it lives" inside portcullis health
expect "it protects" inside test -e /sys/fs/bpf/portcullis/links

say "the watchdog"
inside mkdir -p /run/systemd/system/portcullis.service.d
printf '[Service]\nWatchdogSec=2s\n' >"$work/watchdog.conf"
inside tee /run/systemd/system/portcullis.service.d/watchdog.conf <"$work/watchdog.conf" >/dev/null
inside systemctl daemon-reload
inside systemctl restart portcullis
inside systemctl kill --kill-who=main --signal=STOP portcullis
eventually "systemd ends and restarts a daemon that hangs" 30 restarted_by NRestarts=1
eventually "it runs again" 30 has_state active
inside rm -r /run/systemd/system/portcullis.service.d
inside systemctl daemon-reload

say "upgrading"
inside sh -c 'echo "PORTCULLIS_OPTIONS=\"--log-format json\"" > /etc/default/portcullis'
before="$(main_pid)"
expect "it upgrades without a question" inside dpkg -i /root/new.deb
expect "the new version runs" has_state active
expect "as a new process" test "$before" != "$(main_pid)"
expect "with the administrator's options" inside sh -c 'tr "\0" " " < "/proc/$(systemctl show portcullis -p MainPID --value)/cmdline" | grep -q -- "--log-format json"'
expect "that the upgrade left alone" grep -q json "$root/etc/default/portcullis"

say "removing"
expect "it is removed" inside dpkg -r portcullis
expect "what it protects stays blocked" inside test -e /sys/fs/bpf/portcullis/links
expect "the emergency exit is left" inside /var/lib/portcullis/portcullis --version
expect "its configuration is left" test -e "$root/etc/default/portcullis"

say "purging"
expect "it is purged" inside dpkg -P portcullis
expect "nothing is blocked any more" inside sh -c '! test -e /sys/fs/bpf/portcullis && ! ip link show portcullis0'
expect "its user is gone" inside sh -c '! id portcullis'
expect "the administrator's secrets are left, to root alone" inside sh -c '[ "$(stat -c "%a %G" /etc/portcullis)" = "750 root" ]'
rm -r "$root/etc/portcullis"
files >"$work/after"
expect "nothing else is left" diff "$work/before" "$work/after"
say "done"
printf '%d passed, 0 failed\n' "$passed"

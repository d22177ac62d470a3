# Arguments: a directory, a deb, a newer one, an rpm, a newer one. Prints `ok NAME` or
# `not ok NAME: why` for each check, `skipped: NAME: why` for what cannot be tried here; exits with 1 if
# a check failed.
set -u
export LC_ALL=C
failed=0
check() { # NAME WHY COMMAND... (without a WHY it is what the command says)
    local name=$1 why=$2
    shift 2
    if "$@"; then echo "ok $name"; else
        echo "not ok $name: ${why:-$(tail -n 3 "$said")}"
        failed=1
    fi
}
base=$1/there
said=$base/said
mkdir "$base"
mount -t tmpfs tmpfs "$base" || exit 2
mkdir "$base/upper" "$base/work" "$base/root"
root=$base/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$root" || exit 2
mount -t proc proc "$root/proc" || exit 2
mount -t tmpfs tmpfs "$root/run" || exit 2
# No pins but its own: removal takes the guard off.
mkdir -p "$root/sys/fs/bpf"
mount -t bpf bpf "$root/sys/fs/bpf" || exit 2
inside() { chroot "$root" "$@" >"$said" 2>&1; }
is() { [ "" = "$1" ]; }

installed() { # NAME
    check "$1: the binary runs" "" inside trainguard --version
    check "$1: it has a user" "none" inside getent passwd trainguard
    check "$1: it has its groups" "none" inside getent group trainguard trainguard-admin
    check "$1: nothing is enabled" "it is" inside sh -c '! ls /etc/systemd/system/*.wants/trainguard*'
    check "$1: nothing is configured" "there are files" inside sh -c '[ -z "$(ls /etc/trainguard)" ]'
    check "$1: the example is a good one" "" \
        inside trainguard lint --fail-on warning /usr/share/doc/trainguard/examples/cluster.yaml
    check "$1: its page is found" "" inside test -s /usr/share/man/man1/trainguard-apply.1.gz
    check "$1: bash reads its completions" "" \
        inside bash -n /usr/share/bash-completion/completions/trainguard
}
# What an administrator has written stays, all else goes.
removed() { # NAME
    check "$1: what was written to /etc stays" "it is gone" test -e "$root/etc/trainguard/mine.yaml"
    local left
    left=$(cd "$root" && ls -d usr/bin/trainguard usr/share/trainguard usr/share/doc/trainguard \
        usr/lib/systemd/system/trainguard* usr/share/man/man1/trainguard* 2>/dev/null)
    check "$1: nothing else does" "$left" test -z "$left"
    rm -rf "$root/etc/trainguard"
    inside userdel trainguard
    inside groupdel trainguard-admin
}

if command -v dpkg >/dev/null; then
    cp "$2" "$root/run/a.deb"
    cp "$3" "$root/run/b.deb"
    check "deb: it installs" "" inside dpkg --force-depends --install /run/a.deb
    check "deb: it is as it was packed" "" inside dpkg --verify trainguard
    installed deb
    touch "$root/etc/trainguard/mine.yaml"
    check "deb: it is upgraded" "" inside dpkg --force-depends --install /run/b.deb
    check "deb: the upgrade is as it was packed" "" inside dpkg --verify trainguard
    check "deb: it is removed" "" inside dpkg --remove trainguard
    mkdir -p "$root/var/lib/trainguard"
    check "deb: it is purged" "" inside dpkg --purge trainguard
    check "deb: no state stays" "/var/lib/trainguard is there" test ! -e "$root/var/lib/trainguard"
    removed deb
else
    echo "skipped: deb: there is no dpkg here"
fi

if command -v rpm >/dev/null; then
    cp "$4" "$root/run/a.rpm"
    cp "$5" "$root/run/b.rpm"
    # What this machine has installed is in another database, if it is Debian's.
    outside() { rpm --root "$root" "$@" >"$said" 2>&1; }
    check "rpm: it installs" "" outside --nodeps --install "$root/run/a.rpm"
    check "rpm: it is as it was packed" "" outside --nodeps --verify trainguard
    installed rpm
    touch "$root/etc/trainguard/mine.yaml"
    check "rpm: it is upgraded" "" outside --nodeps --upgrade "$root/run/b.rpm"
    check "rpm: the upgrade is as it was packed" "" outside --nodeps --verify trainguard
    check "rpm: it is erased" "" outside --erase trainguard
    removed rpm
else
    echo "skipped: rpm: there is no rpm here (on Debian: apt-get install rpm)"
fi
umount --recursive --lazy "$base"
exit $failed

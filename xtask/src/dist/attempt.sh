# Arguments: a directory, a deb, a newer one, an rpm, a newer one. Prints `ok NAME` or
# `not ok NAME: why` for each check, `skipped: NAME: why` for a check that cannot run here; exits with 1 if
# a check failed.
set -u
export LC_ALL=C
failed=0
check() { # NAME WHY COMMAND... (an empty WHY stands for the output of the command)
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
# A separate bpf file system, because removal of the package detaches the guard.
mkdir -p "$root/sys/fs/bpf"
mount -t bpf bpf "$root/sys/fs/bpf" || exit 2
inside() { chroot "$root" "$@" >"$said" 2>&1; }
is() { [ "" = "$1" ]; }

installed() { # NAME
    check "$1: the binary runs" "" inside trainguard --version
    check "$1: the user exists" "no such user" inside getent passwd trainguard
    check "$1: the groups exist" "a group is missing" inside getent group trainguard trainguard-admin
    check "$1: no unit is enabled" "a unit is enabled" inside sh -c '! ls /etc/systemd/system/*.wants/trainguard*'
    check "$1: /etc/trainguard is empty" "the directory has files" inside sh -c '[ -z "$(ls /etc/trainguard)" ]'
    check "$1: lint finds nothing in the example" "" \
        inside trainguard lint --fail-on warning /usr/share/doc/trainguard/examples/cluster.yaml
    check "$1: the manual page is installed" "" inside test -s /usr/share/man/man1/trainguard-apply.1.gz
    check "$1: bash can parse the completions" "" \
        inside bash -n /usr/share/bash-completion/completions/trainguard
}
# Files that an administrator has written stay; all other files are removed.
removed() { # NAME
    check "$1: a file that the administrator wrote to /etc stays" "the file was removed" test -e "$root/etc/trainguard/mine.yaml"
    local left
    left=$(cd "$root" && ls -d usr/bin/trainguard usr/share/trainguard usr/share/doc/trainguard \
        usr/lib/systemd/system/trainguard* usr/share/man/man1/trainguard* 2>/dev/null)
    check "$1: no file of the package stays" "$left" test -z "$left"
    rm -rf "$root/etc/trainguard"
    inside userdel trainguard
    inside groupdel trainguard-admin
}

if command -v dpkg >/dev/null; then
    cp "$2" "$root/run/a.deb"
    cp "$3" "$root/run/b.deb"
    check "deb: the package installs" "" inside dpkg --force-depends --install /run/a.deb
    check "deb: the installed files match the package" "" inside dpkg --verify trainguard
    installed deb
    touch "$root/etc/trainguard/mine.yaml"
    check "deb: the package is upgraded" "" inside dpkg --force-depends --install /run/b.deb
    check "deb: the upgraded files match the package" "" inside dpkg --verify trainguard
    check "deb: the package is removed" "" inside dpkg --remove trainguard
    mkdir -p "$root/var/lib/trainguard"
    check "deb: the package is purged" "" inside dpkg --purge trainguard
    check "deb: purging removes the state" "/var/lib/trainguard exists" test ! -e "$root/var/lib/trainguard"
    removed deb
else
    echo "skipped: deb: dpkg is not installed"
fi

if command -v rpm >/dev/null; then
    cp "$4" "$root/run/a.rpm"
    cp "$5" "$root/run/b.rpm"
    # On Debian, the packages of this machine are in another database.
    outside() { rpm --root "$root" "$@" >"$said" 2>&1; }
    check "rpm: the package installs" "" outside --nodeps --install "$root/run/a.rpm"
    check "rpm: the installed files match the package" "" outside --nodeps --verify trainguard
    installed rpm
    touch "$root/etc/trainguard/mine.yaml"
    check "rpm: the package is upgraded" "" outside --nodeps --upgrade "$root/run/b.rpm"
    check "rpm: the upgraded files match the package" "" outside --nodeps --verify trainguard
    check "rpm: the package is erased" "" outside --erase trainguard
    removed rpm
else
    echo "skipped: rpm: rpm is not installed (on Debian: apt-get install rpm)"
fi
umount --recursive --lazy "$base"
exit $failed

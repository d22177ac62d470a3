#!/bin/bash
# Upgrades the package of a version with an older layout, which that version's own tools packed, to the
# current one, and goes back, in a machine with systemd. Run as root, with /vm/trainguard.deb and .rpm of that
# version, and /vm/trainguard-next.deb and .rpm of the current one, with a higher revision.
#
# An attacker opens connections all the time. It must get no answer until the command that opens the node.

. "${0%/*}/common.sh"

# Install and remove packages of either kind.
deb_install() { dpkg --install "$1.deb" >/run/install.log 2>&1; }
deb_remove() { dpkg --purge trainguard >/run/install.log 2>&1; }
rpm_install() { rpm --nodeps --upgrade --oldpackage "$1.rpm" >/run/install.log 2>&1; }
rpm_remove() { rpm --nodeps --erase trainguard >/run/install.log 2>&1; }

upgrade_and_back() { # KIND
    local done command layout next
    "$1_install" /vm/trainguard
    done=$?
    check "$1: the earlier package installs" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    configure
    systemctl start trainguard
    check "$1: the earlier daemon runs" "$(journalctl -u trainguard -o cat | tail -3)" active
    check "$1: members get in" "no answer" knock 10.77.0.20
    attack
    quiet "$1: the earlier version"
    layout=$(layouts)
    check "$1: the layout is v3, which does not describe itself" "$layout" holds "$layout" v3
    counted
    mv /run/counted /run/before
    check "$1: the earlier version has counted packets" "no count above 0" grep -q '"packets": *[1-9]' /run/before

    # ---- a stopped daemon stays stopped, and its guard stays in force
    systemctl stop trainguard
    "$1_install" /vm/trainguard-next
    done=$?
    check "$1: the package is upgraded while the daemon is stopped" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    check "$1: a stopped daemon stays stopped" "$(show ActiveState)" refused active
    check "$1: the pins stay until the next start" "$(layouts)" holds "$(layouts)" v3
    quiet "$1: upgrade of a stopped daemon"
    "$1_install" /vm/trainguard
    done=$?
    check "$1: the package is downgraded while the daemon is stopped" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    systemctl start trainguard
    check "$1: the earlier daemon starts, because no other layout took over" "$(show ActiveState)" active
    quiet "$1: downgrade of a stopped daemon"

    # ---- an upgrade while the daemon runs
    old=$(pid)
    "$1_install" /vm/trainguard-next
    done=$?
    check "$1: the package is upgraded" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    check "$1: another daemon runs" "$(show ActiveState) $(pid), before $old" within 30 another
    next=$(layouts)
    check "$1: exactly one layout is pinned" "$next, before $layout" holds "$next" "v[0-9]*([0-9])"
    check "$1: the layout is not the earlier one" "$next" [ "$next" != "$layout" ]
    check "$1: no count falls" "$(none_fell /run/before 2>&1)" none_fell /run/before
    check "$1: members get in after the upgrade" "no answer" knock 10.77.0.20
    trainguard status --format json >/run/status.json
    check "$1: the status reports no problem" "$(tail -5 /run/status.json)" \
        python3 -c 'import json; status = json.load(open("/run/status.json")); exit(status["problems"] != [] or status["enforcing"] is not True)'
    quiet "$1: upgrade"

    # ---- and back: the earlier daemon is refused; the journal names a command and says that it opens the
    # node
    "$1_install" /vm/trainguard
    done=$?
    check "$1: the earlier package installs over the current one" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    check "$1: the earlier daemon does not take over" "$(show ActiveState)" refused active
    check "$1: the current layout stays pinned" "$(ls /sys/fs/bpf/trainguard)" test -e "/sys/fs/bpf/trainguard/$next"
    quiet "$1: the earlier daemon is refused"
    systemctl stop trainguard
    command=$(journalctl -u trainguard -o cat | sed -n 's/.*`\(trainguard detach[^`]*\)`.*open in between.*/\1/p' | tail -1)
    check "$1: the journal names a command, and that it opens the node" "$(journalctl -u trainguard -n 5)" \
        test -n "$command"
    end_attack
    bash -c "$command" >/run/detach.log 2>&1
    done=$?
    check "$1: the command succeeds" "$command: $(tail -3 /run/detach.log)" [ $done -eq 0 ]
    check "$1: the node is open, as the journal says" "no answer" knock 10.77.0.99
    systemctl reset-failed trainguard
    systemctl start trainguard
    check "$1: the earlier daemon starts" "$(journalctl -u trainguard -o cat | tail -3)" active
    check "$1: members get in with the earlier daemon" "no answer" knock 10.77.0.20
    attack
    quiet "$1: back"
    end_attack
    "$1_remove"
    done=$?
    check "$1: the package is removed" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    check "$1: removal detaches" "an XDP program is on tg0" detached
}

upgrade_and_back deb
# The earlier version's `detach` leaves maps of layouts that it does not know. No link uses them, and
# the current daemon removes them.
rm -rf /etc/trainguard /var/lib/trainguard /sys/fs/bpf/trainguard
upgrade_and_back rpm
exit $failed

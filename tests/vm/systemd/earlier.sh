#!/bin/bash
# Upgrades the package of a version with an older layout, as that version's own tools packed it, to
# today's, and goes back, in a machine with systemd. Run as root, with /vm/trainguard.deb and .rpm of that
# version, and /vm/trainguard-next.deb and .rpm of today's, with a higher revision.
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
    check "$1: its daemon runs" "$(journalctl -u trainguard -o cat | tail -3)" active
    check "$1: members get in" "no answer" knock 10.77.0.20
    attack
    quiet "$1: the earlier version"
    layout=$(layouts)
    check "$1: of a layout from before layouts said what they are" "$layout" holds "$layout" v3
    counted
    mv /run/counted /run/before
    check "$1: it has counted" "nothing" grep -q '"packets": *[1-9]' /run/before

    # ---- a stopped daemon stays stopped, and its guard stays in force
    systemctl stop trainguard
    "$1_install" /vm/trainguard-next
    done=$?
    check "$1: a stopped one is upgraded" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    check "$1: a stopped one stays stopped" "$(show ActiveState)" refused active
    check "$1: what is pinned stays until the next start" "$(layouts)" holds "$(layouts)" v3
    quiet "$1: a stopped one is upgraded"
    "$1_install" /vm/trainguard
    done=$?
    check "$1: a stopped one goes back" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    systemctl start trainguard
    check "$1: with nothing to open, for nobody has taken over" "$(show ActiveState)" active
    quiet "$1: a stopped one goes back"

    # ---- an upgrade while the daemon runs
    old=$(pid)
    "$1_install" /vm/trainguard-next
    done=$?
    check "$1: it is upgraded" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    check "$1: another daemon runs" "$(show ActiveState) $(pid), before $old" within 30 another
    next=$(layouts)
    check "$1: another layout, alone" "$next, before $layout" holds "$next" "v[0-9]*([0-9])"
    check "$1: not the one before" "$next" [ "$next" != "$layout" ]
    check "$1: no count falls" "$(none_fell /run/before 2>&1)" none_fell /run/before
    check "$1: members get in after it" "no answer" knock 10.77.0.20
    trainguard status --format json >/run/status.json
    check "$1: nothing is reported" "$(tail -5 /run/status.json)" \
        python3 -c 'import json; status = json.load(open("/run/status.json")); exit(status["problems"] != [] or status["enforcing"] is not True)'
    quiet "$1: upgrade"

    # ---- and back: the earlier daemon is refused; the journal names a command and says that it opens the
    # node
    "$1_install" /vm/trainguard
    done=$?
    check "$1: the earlier package installs over it" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    check "$1: the earlier daemon does not take over" "$(show ActiveState)" refused active
    check "$1: what is in force stays" "$(ls /sys/fs/bpf/trainguard)" test -e "/sys/fs/bpf/trainguard/$next"
    quiet "$1: the earlier daemon is refused"
    systemctl stop trainguard
    command=$(journalctl -u trainguard -o cat | sed -n 's/.*`\(trainguard detach[^`]*\)`.*open in between.*/\1/p' | tail -1)
    check "$1: the journal names a command, and that it opens the node" "$(journalctl -u trainguard -n 5)" \
        test -n "$command"
    end_attack
    bash -c "$command" >/run/detach.log 2>&1
    done=$?
    check "$1: the command does it" "$command: $(tail -3 /run/detach.log)" [ $done -eq 0 ]
    check "$1: the node is open, as it says" "no answer" knock 10.77.0.99
    systemctl reset-failed trainguard
    systemctl start trainguard
    check "$1: the earlier daemon starts" "$(journalctl -u trainguard -o cat | tail -3)" active
    check "$1: members get in with it" "no answer" knock 10.77.0.20
    attack
    quiet "$1: back"
    end_attack
    "$1_remove"
    done=$?
    check "$1: it is removed" "$(tail -3 /run/install.log)" [ $done -eq 0 ]
    check "$1: removal detaches" "an XDP program is on tg0" detached
}

upgrade_and_back deb
# The earlier version's `detach` leaves maps of layouts that it does not know. No link uses them, and
# today's daemon removes them.
rm -rf /etc/trainguard /var/lib/trainguard /sys/fs/bpf/trainguard
upgrade_and_back rpm
exit $failed

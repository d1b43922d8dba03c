#!/usr/bin/env bash
# One node of a test cluster, or the fabric that joins the nodes: enters its control groups, makes its namespaces, sets
# them up and becomes the node's first process. Run by `mesh-cluster up`, which makes the link that this waits for. What
# it needs comes in the environment:
#
#   NODE_NAME  NODE_DIR          the node, and its folder on this machine
#   NODE_V4  NODE_V6             its addresses on eth0, with prefix lengths
#   ROUTER_V4  ROUTER_V6         where everything goes that is not the cluster's
#   NODE_ROUTES                  a line for each route to the pods of other nodes: FAMILY PREFIX VIA
#   CGROUP_VERSION               1 or 2
#   CGROUP_DIRS                  the node's control groups on this machine, one a line
#   CGROUP_HIERARCHIES           version 1: what is to be mounted within, one a line: FOLDER OPTIONS
#   NODE_INIT  NODE_PLAN         the first process, and its argument
set -euo pipefail

join() {
  local dir
  while read -r dir; do
    echo $$ > "$dir/cgroup.procs"
  done <<< "$CGROUP_DIRS"
}

# The namespace that the bridge between the nodes is in; it lives as long as this process.
fabric() {
  join
  echo $$ > "$NODE_DIR/fabric.pid.new"
  exec unshare --net -- sh -c 'mv "$NODE_DIR/fabric.pid.new" "$NODE_DIR/fabric.pid"; exec sleep infinity'
}

launch() {
  join
  exec unshare --mount --net --pid --ipc --uts --cgroup --fork --propagation private -- "$BASH" "$0" inside
}

inside() {
  # Still this machine's /proc: the number is the one that it knows the node's first process by.
  local pid
  read -r pid _ < /proc/self/stat
  echo "$pid" > "$NODE_DIR/init.pid.new"
  mv "$NODE_DIR/init.pid.new" "$NODE_DIR/init.pid"

  hostname "$NODE_NAME"
  mount -t proc proc /proc
  # Left there, this machine's mounts of the control groups would be taken for the node's.
  umount -R -l /sys
  mount -t sysfs sysfs /sys
  "cgroups_v$CGROUP_VERSION"
  files
  shield
  network
  echo "node $NODE_NAME: set up"
  exec "$NODE_INIT" node-init "$NODE_PLAN"
}

cgroups_v1() {
  local folder options
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  while read -r folder options; do
    mkdir "/sys/fs/cgroup/$folder"
    mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$folder"
  done <<< "$CGROUP_HIERARCHIES"
}

cgroups_v2() {
  local name pids pid
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  # Controllers can be handed down only by a group without processes of its own.
  mkdir /sys/fs/cgroup/init
  pids=$(cat /sys/fs/cgroup/cgroup.procs)
  for pid in $pids; do
    echo "$pid" > /sys/fs/cgroup/init/cgroup.procs 2> /dev/null || true
  done
  for name in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$name" > /sys/fs/cgroup/cgroup.subtree_control
  done
}

# Everything that a node writes outside of its folder: laid over for it alone.
files() {
  mkdir -p "$NODE_DIR"/{etc,etc-work,lib,log,opt/cni/bin}
  mount -t overlay -o "lowerdir=/etc,upperdir=$NODE_DIR/etc,workdir=$NODE_DIR/etc-work" overlay /etc
  mount --bind "$NODE_DIR/lib" /var/lib
  mount --bind "$NODE_DIR/log" /var/log
  mount --bind "$NODE_DIR/opt" /opt
  mount -t tmpfs -o mode=755 tmpfs /run
  mount -t tmpfs -o mode=1777 tmpfs /tmp
  mkdir -p /run/lock
  # Pods see what is mounted later too, and may mount for the node.
  mount --make-rshared /
}

# Settings of the whole kernel that the kubelet insists on. It is shown what it wants to see; the kernel keeps its own.
shield() {
  local setting path
  mkdir /run/settings
  for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    path=${setting%%=*}
    echo "${setting#*=}" > "/run/settings/${path//\//.}"
    mount --bind "/run/settings/${path//\//.}" "/proc/sys/$path"
  done
}

network() {
  local family prefix via tries=0
  ip link set lo up
  until [ -e /sys/class/net/eth0 ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ]; then
      echo "node $NODE_NAME: waited 20 s in vain for its link" >&2
      exit 1
    fi
    sleep 0.1
  done
  sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  # Traffic between pods of one bridge passes the rules of Services too.
  sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1
  ip addr add "$NODE_V4" dev eth0
  ip -6 addr add "$NODE_V6" dev eth0 nodad
  ip link set eth0 up
  ip route add default via "$ROUTER_V4"
  ip -6 route add default via "$ROUTER_V6"
  while read -r family prefix via; do
    [ -z "$family" ] || ip "$family" route add "$prefix" via "$via"
  done <<< "$NODE_ROUTES"
}

exec >> "$NODE_DIR/node.log" 2>&1 < /dev/null
"$1"

#!/usr/bin/env bash
# A Docker engine runs when this ends with 0. As root on Debian or Ubuntu it is installed and started if need be.
set -euo pipefail
cd "$(dirname "$0")/.."

answers() { timeout 10 docker info >/dev/null 2>&1; }

give_up() {
  echo "moorage: $1" >&2
  echo "Install and start Docker (on Debian or Ubuntu: sudo apt-get install docker.io && sudo service docker start)," >&2
  echo "be allowed to use it (sudo usermod -aG docker \"\$USER\", then log in again), and try again." >&2
  echo "Without Docker, 'moor up --runtime simulated' still shows everything but real containers." >&2
  exit 1
}

install_missing() {
  local packages=()
  command -v dockerd >/dev/null || packages+=(docker.io)
  command -v iptables >/dev/null || packages+=(iptables)
  command -v debootstrap >/dev/null || packages+=(debootstrap)
  test -x /bin/busybox || packages+=(busybox-static)
  test ${#packages[@]} -eq 0 && return
  command -v apt-get >/dev/null || give_up "no Docker engine answers, and this is not Debian or Ubuntu"
  echo "installing ${packages[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

start_engine() {
  mkdir -p .cache
  if test -d /run/systemd/system; then
    systemctl start docker && return
  fi
  echo "starting dockerd, log in .cache/dockerd.log"
  setsid nohup dockerd >>.cache/dockerd.log 2>&1 </dev/null &
}

if answers; then exit 0; fi
test "$(id -u)" -eq 0 || give_up "no Docker engine answers"
install_missing
if answers; then exit 0; fi # the package may have started it
start_engine
for _ in $(seq 120); do
  if answers; then exit 0; fi
  sleep 0.5
done
tail -n 20 .cache/dockerd.log >&2 || true
give_up "dockerd was started and does not answer"

#!/bin/sh
# What has to come from Debian, and nothing else: Python's venv module where the distribution splits it off; Maven,
# which fetches Kafka's jars (it brings a Java); Redis, which the bus is tested against beside Valkey; and Chromium, in
# which tests look at pages. The other servers come as wheels.
# As root it installs what is missing (and is quiet when nothing is); otherwise it names the command to run.
set -eu
python=${PYTHON:-python3}
missing=""
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
command -v mvn >/dev/null || missing="$missing maven"
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v chromium >/dev/null || missing="$missing chromium"
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "missing, and there is no apt-get here:$missing; install what these Debian packages hold" >&2
    exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "missing Debian packages:$missing; as root run: apt-get install --yes$missing" >&2
    exit 2
fi
export DEBIAN_FRONTEND=noninteractive
export RUNLEVEL=1 # a server that is installed is not to be started
apt-get update --quiet=2
# shellcheck disable=SC2086  # the list is meant to be split
apt-get install --yes --quiet=2 --no-install-recommends $missing

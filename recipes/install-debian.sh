#!/usr/bin/env bash
# Debian's packages that the real-data recipes and the browser test need. Run as root, or with sudo in front.
set -euo pipefail
packages=(chromium dataset-fashion-mnist manpages-zh)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
command -v npm >/dev/null || { echo "npm is missing: install Node.js (https://nodejs.org), it fetches the e-mails" >&2; exit 4; }

#!/bin/bash
# `initdb` of the guest: emulated, the real one takes more than a minute, so a cluster that was made with the image is copied
# where the options are those of the test bed. Others get the real one.
real=/usr/lib/postgresql/15/bin/initdb
data='' wal='' other=''
all=("$@")
while [ $# -gt 0 ]; do
    case $1 in
    -D) data=$2 && shift ;;
    -X) wal=$2 && shift ;;
    -A | -E | --locale | -U) case $1$2 in -Atrust | -EUTF8 | --localeC.UTF-8 | -Upostgres) ;; *) other=yes ;; esac && shift ;;
    --no-sync | --data-checksums | --wal-segsize=16) ;;
    *) other=yes ;;
    esac
    shift
done
[ -z "$other" ] && [ -n "$data" ] || exec "$real" "${all[@]}"
set -e
mkdir -p "$data"
cp -a /var/lib/postgresql/template/. "$data/"
chmod 700 "$data"
if [ -n "$wal" ]; then
    mkdir -p "$wal"
    cp -a "$data/pg_wal/." "$wal/"
    chmod 700 "$wal"
    rm -rf "$data/pg_wal"
    ln -s "$wal" "$data/pg_wal"
fi

# Sourced, not run. Makes sure that a static RocksDB stands in the cache and
# exports the variables by which librocksdb-sys links it instead of compiling
# its own for every target directory.
#
# The sources are those of the locked librocksdb-sys crate, sixteen to a
# translation unit: parsing headers is most of the work, so this takes a
# quarter of the time of the crate's own build. Crate version, flags and
# compiler are in the archive's path, since cargo does not watch its contents.

build_rocksdb() {
    local metadata sys lz4 zstd flags key out work
    metadata=$(cargo metadata --format-version 1 --locked) || return 1
    crate_dir() {
        dirname "$(jq -r --arg name "$1" '.packages[] | select(.name == $name).manifest_path' <<<"$metadata")"
    }
    sys=$(crate_dir librocksdb-sys)
    lz4=$(crate_dir lz4-sys)
    zstd=$(crate_dir zstd-sys)

    flags="-std=c++20 -include cstdint -fPIC -w -ffunction-sections -fdata-sections -O2 -DNDEBUG -DLZ4=1 -DZSTD=1"
    flags+=" -DOS_LINUX -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX"
    flags+=" -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT"
    flags+=" -DROCKSDB_RANGESYNC_PRESENT"
    # Hardware CRC32C; every x86-64 processor since 2011 has it.
    case $(uname -m) in
        x86_64) flags+=" -msse4.2 -mpclmul" ;;
        aarch64) flags+=" -march=armv8-a+crc+crypto" ;;
    esac

    key=$({ echo "$flags"; g++ --version | head -n 1; } | sha256sum | cut -c 1-12)
    out=$MYELIN_CACHE/rocksdb/$(basename "$sys")-$key
    if [ ! -f "$out/librocksdb.a" ]; then
        echo "Building RocksDB once into $out (about ten minutes on two cores)" >&2
        work=$out.building.$$
        mkdir -p "$work" || return 1
        (
            set -e
            cd "$work"
            grep -v util/build_version.cc "$sys/rocksdb_lib_sources.txt" | split -l 16 -d -a 3 - part_
            for part in part_*; do
                sed 's/.*/#include "&"/' "$part" >"unit_${part#part_}.cc"
            done
            cp "$sys/build_version.cc" unit_version.cc
            ls unit_*.cc | xargs -P "$(nproc)" -I{} \
                g++ $flags -I"$sys" -I"$sys/rocksdb" -I"$sys/rocksdb/include" \
                -I"$lz4/liblz4/lib" -I"$zstd/zstd/lib" -c {} -o {}.o
            ar crs librocksdb.a unit_*.cc.o
            rm -f unit_* part_*
        ) || { echo "RocksDB did not build; the compiler's message stands above" >&2; rm -rf "$work"; return 1; }
        # Renamed whole, so that an interrupted build is never taken for a finished one.
        mv "$work" "$out" 2>/dev/null || rm -rf "$work"
    fi
    export ROCKSDB_LIB_DIR=$out ROCKSDB_STATIC=1
}

build_rocksdb

/*
 * What a disk would hold if the power failed now.
 *
 * Preloaded into a process that writes below $MYELIN_POWER_ROOT. Nothing is
 * really synced; instead fsync and fdatasync copy to $MYELIN_POWER_SHADOW what
 * they promise to keep:
 *
 *   data-<inode>  what of the file was synced
 *   dir-<inode>   the directory when it was synced: a line "inode kind name"
 *                 for each entry, kind being f or d
 *   pin-<inode>   a link to the file, so that its inode number is not used
 *                 again and what was not synced can still be read
 *
 * The process may be killed at any time: whatever a sync has copied when it is
 * killed is what a disk might hold in the middle of it.
 *
 * A new file's name is kept only when its directory is synced, which is what
 * POSIX promises and less than what most file systems do. sync_file_range
 * promises nothing and is not here. Files are taken to grow at their end; who
 * puts the files together again checks that they did.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* A layer that can't do its work must not let the test pass. */
static void fail(const char *what)
{
    perror(what);
    _exit(90);
}

static void shadow_path(char *out, const char *kind, ino_t inode)
{
    const char *shadow = getenv("MYELIN_POWER_SHADOW");
    snprintf(out, PATH_MAX, "%s/%s-%lu", shadow, kind, (unsigned long)inode);
}

static void pin(const char *path, ino_t inode)
{
    char pinned[PATH_MAX];
    shadow_path(pinned, "pin", inode);
    /* Pinned already, or deleted meanwhile: either is well. */
    (void)!link(path, pinned);
}

static void keep_data(int fd, const char *path, const struct stat *file)
{
    char name[PATH_MAX];
    static char buffer[1 << 16];
    int shadow;
    off_t at;

    pin(path, file->st_ino);
    shadow_path(name, "data", file->st_ino);
    shadow = open(name, O_WRONLY | O_CREAT, 0600);
    if (shadow < 0)
        fail(name);
    at = lseek(shadow, 0, SEEK_END);
    /* The writer's descriptor may not be readable. */
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    fd = open(name, O_RDONLY);
    if (fd < 0)
        fail(path);
    while (at < file->st_size) {
        off_t left = file->st_size - at;
        size_t want = left < (off_t)sizeof buffer ? (size_t)left : sizeof buffer;
        ssize_t got = pread(fd, buffer, want, at);
        if (got <= 0 || pwrite(shadow, buffer, got, at) != got)
            fail(path);
        at += got;
    }
    close(fd);
    close(shadow);
}

static void keep_directory(const char *path, const struct stat *directory)
{
    char name[PATH_MAX], fresh[PATH_MAX + 8], entry_path[PATH_MAX + 256];
    struct dirent *entry;
    DIR *entries = opendir(path);
    FILE *list;

    shadow_path(name, "dir", directory->st_ino);
    snprintf(fresh, sizeof fresh, "%s.new", name);
    list = fopen(fresh, "w");
    if (entries == NULL || list == NULL)
        fail(path);
    while ((entry = readdir(entries)) != NULL) {
        struct stat found;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        snprintf(entry_path, sizeof entry_path, "%s/%s", path, entry->d_name);
        if (lstat(entry_path, &found) != 0)
            continue;
        if (S_ISREG(found.st_mode))
            pin(entry_path, found.st_ino);
        fprintf(list, "%lu %c %s\n", (unsigned long)found.st_ino,
                S_ISDIR(found.st_mode) ? 'd' : 'f', entry->d_name);
    }
    closedir(entries);
    if (fclose(list) != 0 || rename(fresh, name) != 0)
        fail(name);
}

static int keep(int fd)
{
    const struct timespec disk = { 0, 200000 };
    const char *root = getenv("MYELIN_POWER_ROOT");
    char link_name[64], path[PATH_MAX];
    struct stat file;
    ssize_t length;

    snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
    length = readlink(link_name, path, sizeof path - 1);
    if (fstat(fd, &file) != 0)
        return -1;
    if (root == NULL || length < 0)
        return 0;
    path[length] = '\0';
    if (strncmp(path, root, strlen(root)) != 0)
        return 0;
    nanosleep(&disk, NULL);
    pthread_mutex_lock(&one_at_a_time);
    if (S_ISREG(file.st_mode))
        keep_data(fd, path, &file);
    else if (S_ISDIR(file.st_mode))
        keep_directory(path, &file);
    pthread_mutex_unlock(&one_at_a_time);
    return 0;
}

int fsync(int fd)
{
    return keep(fd);
}

int fdatasync(int fd)
{
    return keep(fd);
}

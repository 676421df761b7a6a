/* A disk that takes SLOW_DISK_SECONDS to flush each file below SLOW_DISK: preloaded, it stands between a program and
 * its C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int fsync(int descriptor) {
    const char *folder = getenv("SLOW_DISK"), *seconds = getenv("SLOW_DISK_SECONDS");
    char entry[64], path[4096];
    snprintf(entry, sizeof entry, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(entry, path, sizeof path - 1);
    if (folder && seconds && length > 0) {
        path[length] = 0;
        if (strncmp(path, folder, strlen(folder)) == 0) {
            double wanted = atof(seconds);
            struct timespec pause = {(time_t)wanted, (long)((wanted - (time_t)wanted) * 1e9)};
            nanosleep(&pause, NULL);
        }
    }
    int (*flush)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return flush(descriptor);
}

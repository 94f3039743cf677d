/* The headers compile as C99, and a C compiler sees the layout that the ABI promises. */
#include "streamer/runai_file_streamer.h"
#include "streamer/runai_safetensors.h"

typedef char device_is_two_ints[sizeof(RunaiFileStreamerDevice) == 2 * sizeof(int) ? 1 : -1];

int call_from_c(void** streamer) {
  device_is_two_ints unused = {0};
  (void)unused;
  return runai_file_streamer_start(streamer);
}

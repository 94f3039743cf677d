/* The destination of a request: host memory or a CUDA device.
 *
 * Copyright the Model Streamer authors. Apache-2.0.
 */
#ifndef STREAMER_DEVICE_H_
#define STREAMER_DEVICE_H_

enum { RUNAI_FILE_STREAMER_DEVICE_CPU = 0, RUNAI_FILE_STREAMER_DEVICE_CUDA = 1 };

typedef struct {
  int type; /* RUNAI_FILE_STREAMER_DEVICE_CPU or _CUDA */
  int id;   /* of a CUDA device: its ordinal; else ignored */
} RunaiFileStreamerDevice;

#endif /* STREAMER_DEVICE_H_ */

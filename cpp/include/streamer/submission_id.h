/* The number of a submission.
 *
 * Copyright the Model Streamer authors. Apache-2.0.
 */
#ifndef STREAMER_SUBMISSION_ID_H_
#define STREAMER_SUBMISSION_ID_H_

#include <stdint.h>

/* Unique within one streamer. */
typedef uint64_t RunaiFileStreamerSubmissionId;

#endif /* STREAMER_SUBMISSION_ID_H_ */

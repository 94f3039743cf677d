// Marks the symbols that libstreamer.so exports.
//
// Copyright the Model Streamer authors. Apache-2.0.
#pragma once

#define STREAMER_EXPORT [[gnu::visibility("default")]]

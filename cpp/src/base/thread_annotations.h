// Attributes for Clang's thread-safety analysis (-Wthread-safety). Other compilers ignore them.
#pragma once

#if defined(__clang__)
#define STREAMER_ATTRIBUTE(x) __attribute__((x))
#else
#define STREAMER_ATTRIBUTE(x)
#endif

// A class whose objects are locks, and a class that holds a lock from construction to destruction.
#define CAPABILITY(name) STREAMER_ATTRIBUTE(capability(name))
#define SCOPED_CAPABILITY STREAMER_ATTRIBUTE(scoped_lockable)

// A member that may be used only while the lock is held.
#define GUARDED_BY(lock) STREAMER_ATTRIBUTE(guarded_by(lock))

// A function that may be called only while the locks are held, or only while they are not.
#define REQUIRES(...) STREAMER_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) STREAMER_ATTRIBUTE(locks_excluded(__VA_ARGS__))

// A function that takes the locks, or releases them. Without arguments: the object itself.
#define ACQUIRE(...) STREAMER_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define RELEASE(...) STREAMER_ATTRIBUTE(release_capability(__VA_ARGS__))

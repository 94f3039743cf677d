// A link between two network namespaces that is long: packets of either direction arrive after a
// delay, and no faster than a rate. For kernels without netem.
//
//   link_delay NAMESPACE_A ADDRESS_A NAMESPACE_B ADDRESS_B ONE_WAY_MILLISECONDS GBIT_PER_SECOND
//
// Makes a TUN device "link0" in both namespaces, with segmentation offload (packets of up to 64 KiB
// cross it whole), says "ready", and runs until it is killed.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

// virtio_net_hdr; the kernel's own header is not C++.
struct PacketHeader {
  std::uint8_t flags;
  std::uint8_t gso_type;
  std::uint16_t hdr_len;
  std::uint16_t gso_size;
  std::uint16_t csum_start;
  std::uint16_t csum_offset;
};

constexpr std::size_t kLargestPacket = 65536 + sizeof(PacketHeader);
constexpr std::uint64_t kQueueBytes = 32'000'000;  // that wait for the wire; more are dropped
constexpr int kFrameBytes = 38;                    // Ethernet around each segment
constexpr int kHeaderBytes = 52;                   // IP and TCP of each further segment

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

// A TUN device in `space`, up, with `address`.
int open_device(const std::string& space, const std::string& address) {
  const int handle = open(("/var/run/netns/" + space).c_str(), O_RDONLY | O_CLOEXEC);
  if (handle < 0 || setns(handle, CLONE_NEWNET) != 0) fail(space.c_str());
  close(handle);
  const int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (device < 0) fail("/dev/net/tun");
  ifreq request{};
  std::strcpy(request.ifr_name, "link0");
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(device, TUNSETIFF, &request) != 0) fail("TUNSETIFF");
  if (ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) != 0)
    fail("TUNSETOFFLOAD");
  const std::string commands = "ip addr add " + address +
                               "/24 dev link0 && ip link set link0 txqueuelen 20000 up && "
                               "ip link set lo up";
  if (std::system(commands.c_str()) != 0) fail("ip");
  return device;
}

class Direction {
 public:
  Direction(int from, int to, nanoseconds delay, double gbit)
      : from_(from), to_(to), delay_(delay), nanoseconds_per_byte_(gbit > 0 ? 8 / gbit : 0) {}

  [[noreturn]] void run() {
    prctl(PR_SET_TIMERSLACK, 1);
    for (;;) {
      while (take()) {
      }
      deliver();
      wait();
    }
  }

 private:
  struct Packet {
    Clock::time_point due;
    std::vector<char> bytes;
  };

  // Reads one packet; false if there is none.
  bool take() {
    if (buffer_.size() != kLargestPacket) buffer_.resize(kLargestPacket);
    const ssize_t size = read(from_, buffer_.data(), buffer_.size());
    if (size < 0) {
      if (errno != EAGAIN && errno != EINTR) fail("read");
      return false;
    }
    const Clock::time_point now = Clock::now();
    if (wire_free_ < now) wire_free_ = now;
    const double waiting = static_cast<double>((wire_free_ - now).count());
    if (waiting > kQueueBytes * nanoseconds_per_byte_ && nanoseconds_per_byte_ > 0) return true;
    wire_free_ += nanoseconds(static_cast<long long>(wire_bytes(size) * nanoseconds_per_byte_));
    packets_.push_back(
        {wire_free_ + delay_, std::vector<char>(buffer_.data(), buffer_.data() + size)});
    return Clock::now() < packets_.front().due;
  }

  // The bytes of the packet on the wire, cut into segments.
  double wire_bytes(ssize_t size) const {
    PacketHeader header;
    std::memcpy(&header, buffer_.data(), sizeof header);
    ssize_t segments = 1;
    if (header.gso_type != 0 && header.gso_size > 0) {
      segments = (size - header.hdr_len + header.gso_size - 1) / header.gso_size;
    }
    return static_cast<double>(size + (segments - 1) * kHeaderBytes + segments * kFrameBytes);
  }

  void deliver() {
    while (!packets_.empty() && packets_.front().due <= Clock::now()) {
      const std::vector<char>& bytes = packets_.front().bytes;
      // Packets that the device refuses are lost, as on any link.
      if (write(to_, bytes.data(), bytes.size()) < 0 && errno == EBADF) fail("write");
      packets_.pop_front();
    }
  }

  void wait() {
    pollfd readable{from_, POLLIN, 0};
    if (packets_.empty()) {
      ppoll(&readable, 1, nullptr, nullptr);
      return;
    }
    const nanoseconds left = packets_.front().due - Clock::now();
    if (left <= nanoseconds(0)) return;
    const timespec time{static_cast<time_t>(left.count() / 1'000'000'000),
                        static_cast<long>(left.count() % 1'000'000'000)};
    ppoll(&readable, 1, &time, nullptr);
  }

  const int from_;
  const int to_;
  const nanoseconds delay_;
  const double nanoseconds_per_byte_;
  Clock::time_point wire_free_{};
  std::vector<char> buffer_;
  std::deque<Packet> packets_;
};

}  // namespace

int main(int count, char** words) {
  if (count != 7) {
    std::fprintf(stderr, "usage: link_delay NS_A ADDRESS_A NS_B ADDRESS_B DELAY_MS GBIT\n");
    return 2;
  }
  const int a = open_device(words[1], words[2]);
  const int b = open_device(words[3], words[4]);
  const nanoseconds delay(static_cast<long long>(std::atof(words[5]) * 1e6));
  const double gbit = std::atof(words[6]);
  Direction there(a, b, delay, gbit);
  Direction back(b, a, delay, gbit);
  std::thread other([&there] { there.run(); });
  std::puts("ready");
  std::fflush(stdout);
  back.run();
}

// Headers of safetensors files by the C ABI and by the C++ API, as an embedder calls them.
#include "streamer/safetensors.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "streamer/runai_safetensors.h"

namespace {

// A file with that header and `data` bytes of data.
std::string file_of(const std::string& text, std::size_t data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(text.size() >> (8 * i));
  return file + text + std::string(data, '\0');
}

const std::string kFile = file_of(
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[3,1],"data_offsets":[4,10]},)"
    R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
    10);

TEST(Safetensors, CAbiGivesTensorsInTheOrderOfTheirPlace) {
  uint64_t end = 0;
  ASSERT_EQ(runai_safetensors_header_end(kFile.data(), 8, kFile.size(), &end),
            RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(end, kFile.size() - 10);
  RunaiSafetensorsHeader* header = nullptr;
  ASSERT_EQ(runai_safetensors_parse(kFile.data(), end, kFile.size(), &header),
            RUNAI_FILE_STREAMER_SUCCESS);
  RunaiSafetensorsTensor tensor;
  ASSERT_EQ(runai_safetensors_tensor(header, 1, &tensor), RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(std::string_view(tensor.name, tensor.name_size), "b");
  EXPECT_STREQ(tensor.dtype, "BF16");
  ASSERT_EQ(tensor.rank, 2U);
  EXPECT_EQ(tensor.shape[0], 3U);
  EXPECT_EQ(tensor.offset, end + 4);
  EXPECT_EQ(tensor.size, 6U);
  EXPECT_EQ(runai_safetensors_tensor(header, 2, &tensor), RUNAI_FILE_STREAMER_INVALID);
  RunaiSafetensorsMetadata entry;
  ASSERT_EQ(runai_safetensors_metadata(header, 0, &entry), RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(std::string_view(entry.key, entry.key_size), "format");
  EXPECT_EQ(std::string_view(entry.value, entry.value_size), "pt");
  EXPECT_EQ(runai_safetensors_metadata(header, 1, &entry), RUNAI_FILE_STREAMER_INVALID);
  runai_safetensors_free(header);
}

TEST(Safetensors, CAbiReportsWhatIsWrong) {
  RunaiSafetensorsHeader* header = nullptr;
  EXPECT_EQ(runai_safetensors_parse(kFile.data(), kFile.size(), kFile.size() - 1, &header),
            RUNAI_FILE_STREAMER_EOF);
  const std::string other = "version https://git-lfs.github.com/spec/v1\n";
  EXPECT_EQ(runai_safetensors_parse(other.data(), other.size(), other.size(), &header),
            RUNAI_FILE_STREAMER_INVALID);
  EXPECT_NE(std::string(runai_file_streamer_last_error()).find("Git LFS"), std::string::npos);
  EXPECT_EQ(header, nullptr);
}

TEST(Safetensors, CAbiRefusesNullArguments) {
  uint64_t end = 0;
  RunaiSafetensorsHeader* header = nullptr;
  RunaiSafetensorsTensor tensor;
  RunaiSafetensorsMetadata entry;
  EXPECT_EQ(runai_safetensors_header_end(nullptr, 8, 8, &end), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_safetensors_header_end(kFile.data(), 8, 8, nullptr), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_safetensors_parse(nullptr, 8, 8, &header), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_safetensors_parse(kFile.data(), 8, 8, nullptr), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_safetensors_tensor(nullptr, 0, &tensor), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_safetensors_metadata(nullptr, 0, &entry), RUNAI_FILE_STREAMER_INVALID);
  runai_safetensors_free(nullptr);
}

TEST(Safetensors, ACopyOfAHeaderSharesItsMemory) {
  auto parsed = streamer::safetensors::parse_header(kFile, kFile.size());
  ASSERT_TRUE(parsed.ok());
  const streamer::safetensors::Header copy = *parsed;
  *parsed = {};
  EXPECT_EQ(copy.tensors[1].name, "b");
  EXPECT_EQ(copy.tensors[1].shape[1], 1U);
  EXPECT_EQ(streamer::safetensors::dtype_name(copy.tensors[1].dtype), "BF16");
  EXPECT_EQ(streamer::safetensors::dtype_bits(copy.tensors[1].dtype), 16U);
}

}  // namespace

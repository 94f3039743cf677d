#include "base/settings.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>

namespace streamer {
namespace {

using Overrides = std::map<std::string, std::string>;

TEST(SettingsTable, NamesEachVariableOnceAndSaysWhatItIsFor) {
  std::set<std::string> names;
  for (const SettingInfo& info : settings_table()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name << " is there twice";
    if (info.former_name != nullptr) {
      EXPECT_TRUE(names.insert(info.former_name).second) << info.former_name << " is there twice";
    }
    EXPECT_STRNE(info.group, "") << info.name;
    EXPECT_STRNE(info.accepted, "") << info.name;
    EXPECT_STRNE(info.summary, "") << info.name;
    EXPECT_LE(info.minimum, info.maximum) << info.name;
  }
}

// A default is what a user could have set.
TEST(SettingsTable, HasDefaultsThatItsOwnRulesAccept) {
  for (const SettingInfo& info : settings_table()) {
    if (!info.default_value.has_value) {
      ASSERT_NE(info.default_value.text, nullptr) << info.name;
      continue;
    }
    unsetenv(info.name);
    const Settings settings;
    switch (info.type) {
      case SettingType::kInteger:
      case SettingType::kBytes: {
        ASSERT_TRUE(info.default_value.number.has_value()) << info.name;
        const std::int64_t number = settings.number(info.name).value();
        EXPECT_EQ(number, info.default_value.number) << info.name;
        const Settings set(Overrides{{info.name, std::to_string(number)}});
        EXPECT_TRUE(set.number(info.name).ok()) << info.name;
        break;
      }
      case SettingType::kBool: {
        const bool on = settings.enabled(info.name).value();
        const Settings set(Overrides{{info.name, default_text(info)}});
        EXPECT_EQ(set.enabled(info.name).value(), on) << info.name;
        break;
      }
      case SettingType::kChoice: {
        const Settings set(Overrides{{info.name, settings.text_or_default(info.name)}});
        EXPECT_TRUE(set.choice(info.name).ok()) << info.name;
        break;
      }
      case SettingType::kText:
      case SettingType::kSecret: EXPECT_STRNE(info.default_value.text, "") << info.name;
    }
  }
}

TEST(SettingsTable, ShowsDefaultsInUnitsThatPeopleRead) {
  EXPECT_EQ(default_text(*find_setting("RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT")), "64 MiB");
  EXPECT_EQ(default_text(*find_setting("RUNAI_STREAMER_S3_LOW_SPEED_LIMIT")), "1024");
  EXPECT_EQ(default_text(*find_setting("RUNAI_STREAMER_ABORT_STRAGGLERS")), "1");
  EXPECT_EQ(default_text(*find_setting("RUNAI_STREAMER_CONCURRENCY")), "adaptive");
}

TEST(Settings, ExpandsTheHomeDirectoryInPaths) {
  const Overrides home{{"HOME", "/home/me"}};
  EXPECT_EQ(Settings(home).path("NETRC"), "/home/me/.netrc");
  Overrides named = home;
  named["NETRC"] = "~/secrets";
  EXPECT_EQ(Settings(named).path("NETRC"), "/home/me/secrets");
  named["NETRC"] = "/etc/~/netrc";
  EXPECT_EQ(Settings(named).path("NETRC"), "/etc/~/netrc");
}

TEST(SettingsTable, KeepsGroupsTogether) {
  std::set<std::string> ended;
  std::string group;
  for (const SettingInfo& info : settings_table()) {
    if (info.group == group) continue;
    EXPECT_EQ(ended.count(info.group), 0u) << info.name << " is apart from its group";
    ended.insert(group);
    group = info.group;
  }
}

TEST(Settings, AcceptsADeprecatedNameUnlessTheSettingIsSet) {
  const char* name = "RUNAI_STREAMER_ABORT_STRAGGLERS";
  const char* former = find_setting(name)->former_name;
  ASSERT_STREQ(former, "RUNAI_STREAMER_HEDGE");
  setenv(former, "0", 1);
  EXPECT_FALSE(Settings().enabled(name).value());
  EXPECT_TRUE(Settings(Overrides{{former, "1"}}).enabled(name).value());
  setenv(name, "1", 1);
  EXPECT_TRUE(Settings().enabled(name).value());
  EXPECT_FALSE(Settings(Overrides{{former, "0"}}).enabled(name).value());
  EXPECT_TRUE(Settings(Overrides{{former, "0"}, {name, "1"}}).enabled(name).value());
  unsetenv(name);
  setenv(former, "perhaps", 1);
  const Status refused = Settings().enabled(name).status();
  EXPECT_NE(refused.detail().message.find(former), std::string::npos) << refused.detail().message;
  unsetenv(former);
}

TEST(Settings, ReadsTheEnvironmentAtTheTimeOfTheCall) {
  const char* name = "RUNAI_STREAMER_CONCURRENCY";
  Settings settings;
  unsetenv(name);
  EXPECT_FALSE(settings.integer(name).value().has_value());
  setenv(name, "12", 1);
  EXPECT_EQ(settings.integer(name).value(), 12);
  setenv(name, "", 1);
  EXPECT_FALSE(settings.integer(name).value().has_value());
  unsetenv(name);
}

TEST(Settings, PrefersOverridesToTheEnvironment) {
  const char* name = "RUNAI_STREAMER_CONCURRENCY";
  setenv(name, "12", 1);
  EXPECT_EQ(Settings(Overrides{{name, "3"}}).integer(name).value(), 3);
  unsetenv(name);
}

// A bad value must name the variable, the value and what is accepted.
void expect_refused(const char* name, const std::string& value) {
  const Settings settings(Overrides{{name, value}});
  const SettingInfo* info = find_setting(name);
  ASSERT_NE(info, nullptr);
  Status status;
  switch (info->type) {
    case SettingType::kInteger:
    case SettingType::kBytes: status = settings.integer(name).status(); break;
    case SettingType::kBool: status = settings.boolean(name).status(); break;
    default: status = settings.choice(name).status();
  }
  ASSERT_EQ(status.code(), Code::kInvalid) << name << "=" << value;
  const std::string text = status.to_string();
  EXPECT_NE(text.find(name), std::string::npos) << text;
  EXPECT_NE(text.find(value), std::string::npos) << text;
}

TEST(Settings, RefusesWhatIsNotAccepted) {
  for (const char* value : {"0", "-1", "1025", "4x", "1.5", "many", "99999999999999999999"}) {
    expect_refused("RUNAI_STREAMER_CONCURRENCY", value);
  }
  expect_refused("RUNAI_STREAMER_MEMORY_LIMIT", "-2");
  expect_refused("RUNAI_STREAMER_CHUNK_BYTESIZE", "4095");
  expect_refused("RUNAI_STREAMER_FS_STRATEGY", "io_uring");
  expect_refused("RUNAI_STREAMER_LOG_TO_STDERR", "maybe");
}

TEST(Settings, SaysWhatIsAccepted) {
  const Settings settings(Overrides{{"RUNAI_STREAMER_FS_STRATEGY", "io_uring"}});
  const std::string text = settings.choice("RUNAI_STREAMER_FS_STRATEGY").status().to_string();
  EXPECT_NE(text.find("auto|mapped|buffered|direct"), std::string::npos) << text;
}

TEST(Settings, TakesTheEndsOfARange) {
  const char* name = "RUNAI_STREAMER_CHUNK_BYTESIZE";
  EXPECT_EQ(Settings(Overrides{{name, "4096"}}).integer(name).value(), 4096);
  EXPECT_EQ(Settings(Overrides{{name, "1073741824"}}).integer(name).value(), 1 << 30);
  const char* limit = "RUNAI_STREAMER_MEMORY_LIMIT";
  EXPECT_EQ(Settings(Overrides{{limit, "-1"}}).integer(limit).value(), -1);
  EXPECT_EQ(Settings(Overrides{{limit, "9223372036854775807"}}).integer(limit).value(), INT64_MAX);
}

TEST(Settings, TakesTextAndSecretsAsTheyAre) {
  for (const char* name : {"RUNAI_STREAMER_LOG_FILE", "AWS_SECRET_ACCESS_KEY"}) {
    EXPECT_EQ(Settings(Overrides{{name, " a B "}}).text(name), " a B ") << name;
    EXPECT_FALSE(Settings(Overrides{{name, ""}}).text(name).has_value()) << name;
  }
}

TEST(Settings, ReadsSwitchesAndChoicesInAnyCase) {
  const char* name = "RUNAI_STREAMER_LOG_TO_STDERR";
  for (const char* value : {"1", "true", "TRUE", "Yes", "on"}) {
    EXPECT_EQ(Settings(Overrides{{name, value}}).boolean(name).value(), true) << value;
  }
  for (const char* value : {"0", "false", "False", "NO", "off"}) {
    EXPECT_EQ(Settings(Overrides{{name, value}}).boolean(name).value(), false) << value;
  }
  const char* level = "RUNAI_STREAMER_LOG_LEVEL";
  EXPECT_EQ(Settings(Overrides{{level, "DEBUG"}}).choice(level).value(), "debug");
}

}  // namespace
}  // namespace streamer

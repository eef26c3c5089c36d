#include "golden.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/core/error.hpp"
#include "support/scratch.hpp"

using casa::Index;
namespace fs = std::filesystem;

namespace {

/// Sets CASA_GOLDEN_DIR while it lives.
class GoldenDir {
 public:
  explicit GoldenDir(const std::string& dir) {
    if (const char* old = std::getenv(name_)) old_ = old;
    set(dir);
  }
  ~GoldenDir() { set(old_); }

 private:
  static void set(const std::string& dir) {
    if (dir.empty())
      ::unsetenv(name_);
    else
      ::setenv(name_, dir.c_str(), 1);
  }
  static constexpr const char* name_ = "CASA_GOLDEN_DIR";
  std::string old_;
};

}  // namespace

TEST_CASE("golden: the repository holds cases of every kind, and each file loads") {
  const GoldenDir repository("");
  Index files = 0;
  for (const auto kind : golden::kinds_of_files) {
    CAPTURE(std::string(kind));
    for (const golden::Case& c : golden::cases(kind)) {
      CAPTURE(c.name);
      ++files;
      const auto d = c.description();
      CHECK(fs::path(c.name).filename() == d.at("name").as_string());
      if (kind == "variants") continue;  // lists of intervals, not streams
      CHECK(d.at("text_len").as_int() >= 0);
      Index images = 0;
      for (const auto& [k, n] : c.insertions()) images += n;
      CHECK(images == d.at("image_len").as_int());
    }
  }
  CHECK(files > 50);
  for (const auto kind : golden::kinds_of_folders) {
    CAPTURE(std::string(kind));
    CHECK_FALSE(golden::folders(kind).empty());
  }
}

TEST_CASE("golden: tensors come flattened behind the first axis, in both precisions") {
  const GoldenDir repository("");
  const golden::Case c(golden::root() / "core" / "gqa_group3.safetensors");
  const auto d = c.description();
  const Index width = d.at("n_heads").as_int() * d.at("head_dim").as_int();
  const auto out = c.matrix<double>("casa.out");
  const auto rounded = c.matrix<float>("casa.out");
  CHECK(out.rows() == d.at("text_len").as_int());
  CHECK(out.cols() == width);
  CHECK(c.shape("casa.out").size() == 3);
  Index different = 0;
  for (Index i = 0; i < out.size(); ++i) {
    REQUIRE(std::isfinite(out.data()[i]));
    different += rounded.data()[i] != static_cast<float>(out.data()[i]);
  }
  CHECK(different == 0);
}

TEST_CASE("golden: another folder is read whatever its file names; none at all is an error") {
  const Scratch scratch;
  const GoldenDir other(scratch.path());
  CHECK_THROWS_AS(golden::case_files("core"), casa::error);
  fs::create_directory(scratch.file("core"));
  CHECK_THROWS_AS(golden::case_files("core"), casa::error);
  CHECK_THROWS_AS(golden::case_files("layer"), casa::error);
  const std::vector<float> x{1, 2, 3};
  casa::io::write_safetensors(scratch.file("core/any name.safetensors"),
                              {casa::io::named_tensor("x", {3}, x)},
                              {{"description", R"({"insertions":[[3,5],[9,0]]})"}});
  const auto cases = golden::cases("core");
  REQUIRE(cases.size() == 1);
  CHECK(cases[0].name == "core/any name");
  CHECK(cases[0].matrix<double>("x").rows() == 1);
  CHECK(cases[0].matrix<double>("x")(0, 2) == 3.0);
  CHECK(cases[0].insertions()[1].first == 9);
  CHECK(golden::case_files("layer").empty());  // absent: skipped
  CHECK(golden::folders("hf_").empty());
  fs::create_directory(scratch.file("layer"));
  CHECK_THROWS_AS(golden::case_files("layer"), casa::error);  // there, but empty
}

// doctest turns these round: they pass because a check in them fails.
TEST_CASE("golden: a loop that leaves out every case fails" * doctest::should_fail()) {
  const GoldenDir repository("");
  const golden::Tally tally("core", 3);
  tally.check_some();
}

TEST_CASE("golden: a loop that leaves out one of all cases fails" * doctest::should_fail()) {
  const GoldenDir repository("");
  golden::Tally tally("core", 2);
  tally.ran();
  tally.check_all();
}

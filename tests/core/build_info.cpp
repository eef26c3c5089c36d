// What a program says of itself must be what it is.
#include "casa/core/build_info.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cassert>
#include <string>
#include <typeinfo>

#include "casa/core/memory.hpp"

TEST_CASE("the instruction set that is printed is the tag of the namespace") {
  const std::string isa = casa::build_info().isa;
  REQUIRE(!isa.empty());
  const std::string tag = std::to_string(isa.size()) + isa;  // as mangled
  CHECK(std::string(typeid(casa::Matrix<float>).name()).find(tag) != std::string::npos);
}

TEST_CASE("optimisation and asserts are told apart") {
  const auto info = casa::build_info();
  bool asserts = false;
  assert((asserts = true));
  CHECK(info.asserts == asserts);
  CHECK((info.summary().find("asserts on") != std::string::npos) == asserts);
  CHECK((info.hint().find("not optimised") != std::string::npos) == !info.optimised);
  casa::BuildInfo other = info;
  other.optimised = true;
  other.faster_isa = {};
  CHECK(other.report() == other.summary());
  other.optimised = false;
  CHECK(other.report().starts_with(other.summary() + "\nnot optimised: build with "));
}

TEST_CASE("a machine is never said to have less than the program uses") {
  const auto info = casa::build_info();
  if (info.isa.starts_with("avx512")) CHECK(info.faster_isa.empty());
  if (info.isa.starts_with("avx2_fma")) CHECK(info.faster_isa != "AVX2 and FMA");
}

TEST_CASE("versions are numbers with dots") {
  for (const std::string& version : {casa::build_info().version, casa::build_info().eigen}) {
    CAPTURE(version);
    CHECK(std::count(version.begin(), version.end(), '.') >= 1);
    CHECK(version.find_first_not_of("0123456789.") == std::string::npos);
  }
}

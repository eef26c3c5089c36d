// The smallest program that uses casa: it says what casa was built as, and whether it could be
// faster.
#include <casa/casa.hpp>
#include <cstdio>

int main() {
  std::printf("%s\n", casa::build_info().report().c_str());
  casa::Matrix<float> m(2, 3);
  m.fill(1.5f);
  return m.eigen().sum() == 9.0f ? 0 : 1;
}

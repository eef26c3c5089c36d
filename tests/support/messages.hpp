// What an error says.
#pragma once

#include <string>
#include <string_view>

#include "casa/core/error.hpp"

/// The message of the casa::error that call() throws; empty if it throws none.
std::string message_of(auto&& call) {
  try {
    call();
  } catch (const casa::error& e) {
    return e.what();
  }
  return "";
}

inline bool has(std::string_view s, std::string_view part) {
  return s.find(part) != std::string_view::npos;
}

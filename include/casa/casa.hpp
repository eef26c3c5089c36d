// All of casa but io/ (files, configs of published models, images, tokenizers: include those by name).
#pragma once

#include "casa/core/build_info.hpp"
#include "casa/core/config.hpp"
#include "casa/core/context.hpp"
#include "casa/core/error.hpp"
#include "casa/core/executor.hpp"
#include "casa/core/interval.hpp"
#include "casa/core/memory.hpp"
#include "casa/core/scalar.hpp"
#include "casa/core/workspace.hpp"

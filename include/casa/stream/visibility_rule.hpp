// A visibility rule of a user's own: what the rows of a stream see in fusion layers, and which
// windows' keys are kept.
#pragma once

#include "casa/stream/visibility.hpp"

CASA_NAMESPACE_BEGIN

/// A row that asks what it sees.
struct RuleRow {
  bool is_image = false;  ///< an image token; else a text token
  Index window = 0;       ///< the number of its window
  Index place = 0;        ///< its place in the window, among the tokens of its kind, from 0
};

/// What there is of a window for a row: all of an earlier one; of its own, what stands before the
/// row, and the row itself.
struct RuleWindow {
  Index number = 0;  ///< of the window, from 0: the text before the first image
  Index images = 0;  ///< its image tokens
  Index text = 0;    ///< its text tokens
};

/// The tokens of a window that a row sees, by their places in the window.
struct RuleSeen {
  Interval images = {};  ///< within [0, RuleWindow::images); what exceeds it is cut
  Interval text = {};    ///< within [0, RuleWindow::text); what exceeds it is cut

  /// Every token there is.
  static RuleSeen all(const RuleWindow& w) { return {{0, w.images}, {0, w.text}}; }
};

/// A rule by which rows see windows, instead of History: set FusionConfig::rule to one, and
/// FusionLayer, Decoder and what is built on them (Generator, Captioner) follow it.
///
///   // The newest image whole; of those before it the first token alone, for four windows.
///   struct Summaries final : casa::VisibilityRule {
///     casa::RuleSeen sees(const casa::RuleRow& row, const casa::RuleWindow& w) const override {
///       return w.number == row.window ? casa::RuleSeen::all(w) : casa::RuleSeen{{0, 1}, {}};
///     }
///     bool keeps(casa::Index window, casa::Index newest) const override {
///       return newest - window < 4;
///     }
///   };
///   config.fusion->rule = std::make_shared<Summaries>();
///
/// A row never sees what comes after it, whatever the rule says. Which tokens are keys is said by
/// FusionConfig::keys: of tokens that are none, the answer is not read. Both functions must give
/// the same answer to the same question, for as long as there are streams, and may be called by
/// several threads at a time.
class VisibilityRule {
 public:
  virtual ~VisibilityRule() = default;

  /// What `row` sees of `window`: its own, or an earlier one that is kept. Asked for each row of a
  /// chunk and each window that is kept.
  virtual RuleSeen sees(const RuleRow& row, const RuleWindow& window) const = 0;

  /// Whether rows of window `newest` or later may see `window`, an earlier one: its keys are kept
  /// whole, however little of it rows see. What is once not kept is gone: for a greater `newest`
  /// the answer must be false, too. A stream's memory is bounded only if all windows are gone at
  /// some time, which nobody checks.
  virtual bool keeps(Index window, Index newest) const = 0;
};

CASA_NAMESPACE_END

// The sizes of the instruction set that a unit is compiled for; an isa_*.cpp defines them before it
// includes anything.
#pragma once

#if !defined(TRPO_ISA_VECTOR) || !defined(TRPO_ISA_PANEL) || !defined(TRPO_ISA_TILE_ROWS)
#error "define TRPO_ISA_VECTOR, TRPO_ISA_PANEL and TRPO_ISA_TILE_ROWS, as the isa_*.cpp units do"
#endif

namespace trpo_fast::cpu {
namespace {

constexpr int kVector = TRPO_ISA_VECTOR;       // floats
constexpr int kPanel = TRPO_ISA_PANEL;         // columns of a packed panel
constexpr int kTileRows = TRPO_ISA_TILE_ROWS;  // rows that a register tile of a product has

}  // namespace
}  // namespace trpo_fast::cpu

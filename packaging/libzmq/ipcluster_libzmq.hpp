// Read before every file of libzmq, by the flags in .cargo/config.toml.
//
// A connection has a queue in each direction, which libzmq makes of pieces of 256 frames: 16 KB each, whether or not
// anything is ever sent. An engine has eight connections to its controller, most of which are silent.

#include "config.hpp"

namespace zmq
{
enum
{
    frames_in_a_piece = 64
};
}

#define message_pipe_granularity frames_in_a_piece

//! The edge router: holds client sockets, follows the placement, and does the last hop of every delivery.

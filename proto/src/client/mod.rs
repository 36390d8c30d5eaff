//! The Centrifuge client protocol: messages and codecs.

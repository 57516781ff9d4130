"""The chat room: conversations, transcript, composer."""

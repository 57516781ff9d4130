"""The Compare page: two to four recipes side by side, watched token by token or measured in turns."""

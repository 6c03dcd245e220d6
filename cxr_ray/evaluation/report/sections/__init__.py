"""The sections of the report that come from JSON documents; each module turns one study into plain blocks."""

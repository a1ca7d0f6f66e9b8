"""Numbers and sentences that console, page and documentation share."""

"""`slds review`: one page to read and mark headnotes by."""

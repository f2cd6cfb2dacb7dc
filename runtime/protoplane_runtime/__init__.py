"""What both ends of a call share: names, context, the link and its carriers, engines."""
